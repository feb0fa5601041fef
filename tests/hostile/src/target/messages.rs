//! The messages between shards and coordinators, each as its receiver reads it, and what a coordinator answers its
//! clients.

use net::wire::inspect::Message;
use prost::Message as _;
use proto::v1;

use super::Target;

pub(super) fn targets() -> Vec<Target> {
    let target = |message: Message| {
        let name = match message {
            Message::Register => "message-register",
            Message::Registered => "message-registered",
            Message::Heartbeat => "message-heartbeat",
            Message::Notice => "message-notice",
            Message::Snapshot => "message-snapshot",
            Message::Payload => "message-payload",
            Message::Sync => "message-sync",
            Message::Cancel => "message-cancel",
            Message::Command => "message-command",
            Message::State => "message-state",
        };
        Target::of(name, vec![message.example()], move |bytes| message.read(bytes).is_ok())
    };
    Message::ALL.into_iter().map(target).chain([answers()]).collect()
}

/// A coordinator's answers to a client. A client takes their fields one by one, as far as they are there.
fn answers() -> Target {
    let hash = vec![7; 32];
    let block = v1::BlockReply {
        number: 3,
        hash: hash.clone().into(),
        fork: "Prague".into(),
        transactions: 9,
        error: "stale".into(),
        ms: 1.5,
        ..Default::default()
    };
    let parked = v1::ParkedBlock { number: 3, hash: hash.into(), transaction: Some(1), ..Default::default() };
    let shard = v1::ShardStatus { shard: 3, ..Default::default() };
    let valid = vec![
        v1::AcceptReply { number: 3, settled: Some(block.clone()), ..Default::default() }.encode_to_vec(),
        block.encode_to_vec(),
        v1::ListParkedReply { blocks: vec![parked] }.encode_to_vec(),
        v1::StatusReply { shards: vec![shard], parked: 1, ..Default::default() }.encode_to_vec(),
        v1::Event { text: "lost".into(), ..Default::default() }.encode_to_vec(),
    ];
    let read = |bytes: &[u8]| {
        [
            v1::AcceptReply::decode(bytes).is_ok(),
            v1::BlockReply::decode(bytes).is_ok(),
            v1::ListParkedReply::decode(bytes).is_ok(),
            v1::StatusReply::decode(bytes).is_ok(),
            v1::Event::decode(bytes).is_ok(),
        ]
        .contains(&true)
    };
    Target::of("message-answer", valid, read).bounded(64 << 10, 512)
}
