//! The messages between shards and coordinators, each as its receiver reads it.

use net::wire::inspect::Message;

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
    Message::ALL.into_iter().map(target).collect()
}
