//! The handshakes that must not succeed, and what each side is told. Both sides are real; only time is shifted, by
//! certificates of other days.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::time::Instant;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use tonic::transport::server::Connected as _;

use super::*;
use crate::calls::OpenCall;
use crate::channel::Connector;
use crate::identity::tests::{Authority, NOW};
use crate::identity::{ClientTls, CredentialError, Expect, Role};

/// What the server and the client say of a handshake.
type Said = (Result<Option<Role>, String>, Result<(), String>);

async fn pair() -> (TcpStream, TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (server, peer) = accepted.unwrap();
    (server, client.unwrap(), peer)
}

fn entry() -> Entry {
    SharedBook::new(ConnectionLimits::default()).admit("127.0.0.1".parse().unwrap()).unwrap()
}

/// The server's side of a handshake with whatever the stream leads to.
async fn serve(server: &Arc<Credentials>, optional: bool, stream: TcpStream) -> Result<Option<Role>, String> {
    let config = server.server(optional, false).unwrap();
    let address = stream.peer_addr().unwrap();
    let door = Door::new(Some(Arc::clone(server)), None).unwrap();
    match handshake(stream, address, config, Arc::clone(server), door, entry()).await {
        // The connection stays open until the client has read the end of the handshake.
        Ok(mut connection) => {
            connection.write_all(b"settings").await.ok();
            connection.shutdown().await.ok();
            Ok(connection_role(&connection))
        }
        Err(refused) => Err(refused.reason),
    }
}

fn connection_role(connection: &Connection) -> Option<Role> {
    connection.connect_info().0.identity.map(|identity| identity.role.clone())
}

/// Lets a client with these credentials call a server with those.
async fn meet(server: &Arc<Credentials>, client: &Arc<Credentials>, expect: Expect) -> Said {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let calling = async {
        let called = Connector::new(ClientTls::Certificate(Arc::clone(client)), expect).connect(uri).await;
        called.map(drop).map_err(|error| error.to_string())
    };
    let serving = async { serve(server, false, listener.accept().await.unwrap().0).await };
    tokio::join!(serving, calling)
}

fn assert_refused((server, client): Said, by_server: &str, by_client: &str) {
    let (server, client) = (server.unwrap_err(), client.unwrap_err());
    assert!(server.contains(by_server), "the server says: {server}");
    assert!(client.contains(by_client), "the client says: {client}");
}

#[tokio::test]
async fn peers_of_one_fleet_recognise_each_other() {
    let authority = Authority::new();
    let (coordinator, shard) = (authority.credentials("coordinator"), authority.credentials("shard/3"));
    let said = meet(&coordinator, &shard, Expect::Coordinator).await;
    assert_eq!(said, (Ok(Some("shard/3".parse().unwrap())), Ok(())));
    let said = meet(&shard, &coordinator, Expect::Shard(common::id::ShardId(3))).await;
    assert_eq!(said, (Ok(Some(Role::Coordinator)), Ok(())));
}

#[tokio::test]
async fn certificates_of_other_authorities_fleets_and_times_are_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.credentials("coordinator");
    let name = "spiffe://test/shard/1";
    let stranger = Authority::trusting(other.issue("stranger", &[name], NOW), &authority);
    assert_refused(
        meet(&server, &stranger, Expect::Coordinator).await,
        "not of an authority in --tls-ca",
        "does not trust the authority",
    );
    let expired = Credentials::load(authority.issue("expired", &[name], -9..-1)).unwrap();
    assert_refused(meet(&server, &expired, Expect::Coordinator).await, "has expired", "has expired");
    let early = Credentials::load(authority.issue("early", &[name], 1..9)).unwrap();
    assert_refused(meet(&server, &early, Expect::Coordinator).await, "not valid yet", "not valid yet");
    let fleet = Credentials::load(authority.issue("fleet", &["spiffe://prod/shard/1"], NOW)).unwrap();
    // This client does not trust the server, either, and is the first to say so.
    assert_refused(meet(&server, &fleet, Expect::Coordinator).await, "refused the handshake", "\"test\"");
}

#[tokio::test]
async fn a_peer_in_another_role_is_not_the_expected_one() {
    let authority = Authority::new();
    let (first, second) = (authority.credentials("shard/1"), authority.credentials("shard/2"));
    let said = meet(&second, &first, Expect::Shard(common::id::ShardId(1))).await;
    assert_refused(said, "refused the handshake", "is that of shard/2, and shard/1 was expected");
    let said = meet(&second, &first, Expect::Coordinator).await;
    assert_refused(said, "refused the handshake", "is that of shard/2, and coordinator was expected");
    // A client's certificate cannot serve, whatever role it claims.
    let client = authority.credentials("client/ann");
    let said = meet(&client, &first, Expect::Coordinator).await;
    assert_refused(said, "refused the handshake", "certificate");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_as_soon_as_the_list_is_read_again() {
    let authority = Authority::new();
    let server = authority.watchful_credentials("coordinator");
    let shard = authority.credentials("shard/44");
    assert_eq!(meet(&server, &shard, Expect::Coordinator).await.1, Ok(()));
    authority.revoke(&["shard-44"]);
    assert_eq!(meet(&server, &shard, Expect::Coordinator).await.1, Ok(()), "not read yet");
    assert!(server.reload().unwrap());
    assert_refused(meet(&server, &shard, Expect::Coordinator).await, "was revoked", "was revoked");
    let another = authority.credentials("shard/445");
    assert_eq!(meet(&server, &another, Expect::Coordinator).await.1, Ok(()));
}

#[tokio::test]
async fn an_open_connection_ends_when_its_certificate_is_revoked() {
    let authority = Authority::new();
    let server = authority.watchful_credentials("coordinator");
    let shard = authority.credentials("shard/44");
    let (accepted, client, address) = pair().await;
    drop(client);
    drop(accepted);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let door = Door::new(Some(Arc::clone(&server)), None).unwrap();
    let serving = async {
        let stream = listener.accept().await.unwrap().0;
        let config = server.server(false, false).unwrap();
        let connection = handshake(stream, address, config, Arc::clone(&server), door, entry()).await;
        let mut connection = connection.map_err(|refused| refused.reason)?;
        connection.write_all(b"settings").await.map_err(|error| error.to_string())?;
        Ok::<_, String>(connection)
    };
    let (served, called) = tokio::join!(
        serving,
        Connector::new(ClientTls::Certificate(Arc::clone(&shard)), Expect::Coordinator).connect(uri)
    );
    let (mut served, mut called) = (served.unwrap(), called.unwrap().into_inner());
    let mut byte = [0];
    called.write_all(b"a").await.unwrap();
    served.read_exact(&mut byte).await.unwrap();
    authority.revoke(&["shard-44"]);
    server.reload().unwrap();
    called.write_all(b"b").await.unwrap();
    let error = served.read_exact(&mut byte).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_taken_only_where_tokens_are() {
    let authority = Authority::new();
    let server = authority.credentials("coordinator");
    for optional in [true, false] {
        let (accepted, client, _) = pair().await;
        let anonymous = async {
            let config = authority.authorities().client(Expect::Coordinator).unwrap();
            let name = "peer.shardexec.internal".try_into().unwrap();
            let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, client).await.unwrap();
            let mut byte = [0];
            stream.read(&mut byte).await.map_err(|error| explained(&error))
        };
        let (served, called) = tokio::join!(serve(&server, optional, accepted), anonymous);
        if optional {
            assert_eq!(served, Ok(None));
        } else {
            assert_eq!(served.unwrap_err(), "it has shown no certificate");
            assert!(called.unwrap_err().contains("it needs a certificate"));
        }
    }
}

#[tokio::test]
async fn plain_text_and_old_versions_are_named() {
    let authority = Authority::new();
    let server = authority.credentials("coordinator");
    let (accepted, mut client, _) = pair().await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert_eq!(serve(&server, false, accepted).await.unwrap_err(), "the other side does not speak TLS");

    // A hello of TLS 1.2: version 3.3, and no list of versions.
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    // Supported groups (secp256r1), signature algorithms (ecdsa_secp256r1_sha256).
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let (accepted, mut client, _) = pair().await;
    client.write_all(&record).await.unwrap();
    assert_eq!(serve(&server, false, accepted).await.unwrap_err(), "it does not speak TLS 1.3");
    let mut alert = Vec::new();
    client.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 70], "protocol_version");
}

#[tokio::test]
async fn a_client_that_speaks_tls_to_a_server_without_is_closed_at_its_first_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut taken = Box::pin(connections(listener, Door::default(), ConnectionLimits::default()));
    for (first, closed) in [(22, true), (b'P', false)] {
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut server = taken.next().await.unwrap().unwrap();
        client.write_all(&[first, 22, 3, 1]).await.unwrap();
        let read = server.read(&mut [0; 2]).await;
        assert_eq!(
            read.map_err(|error| error.kind()),
            if closed { Err(ErrorKind::InvalidData) } else { Ok(2) }
        );
        // Only the first byte tells.
        assert!(closed || server.read(&mut [0; 2]).await.is_ok());
    }
}

#[test]
fn the_end_of_an_authority_is_known_apart_from_that_of_its_certificates() {
    let credentials = Authority::new().credentials("shard/1");
    let expiry = credentials.expiry();
    assert!(expiry.authority > expiry.certificate, "the test's authority lasts for long: {expiry:?}");
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_named() {
    let client = Authority::new().credentials("shard/1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let plain =
        async { listener.accept().await.unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await };
    let connecting =
        Connector::new(ClientTls::Certificate(Arc::clone(&client)), Expect::Coordinator).connect(uri);
    let (_, connected) = tokio::join!(plain, connecting);
    assert_eq!(connected.unwrap_err().to_string(), "the other side does not speak TLS");
}

#[test]
fn a_certificate_names_exactly_one_peer_and_fits_its_key() {
    let authority = Authority::new();
    let refused =
        |names: &[&str]| Credentials::load(authority.issue("wrong", names, NOW)).unwrap_err().to_string();
    assert!(refused(&[]).contains("has no name of the form"));
    assert!(refused(&["https://example.org/"]).contains("has no name of the form"));
    assert!(refused(&["spiffe://test/shard/1", "spiffe://test/shard/2"]).contains("more than one name"));
    assert!(refused(&["spiffe://test/emperor"]).contains("is not a role"));

    let (one, two) =
        (authority.issue("one", &["spiffe://test/shard/1"], NOW), authority.issue("two", &[], NOW));
    let mixed = crate::identity::TlsFiles { key: two.key, ..one };
    assert!(matches!(Credentials::load(mixed), Err(CredentialError::Mismatch { .. })));
}

#[test]
fn a_half_replaced_pair_is_not_used() {
    let authority = Authority::new();
    let files = authority.issue("own", &["spiffe://test/shard/1"], NOW);
    let credentials = Credentials::load(files.clone()).unwrap();
    let key = std::fs::read(&files.key).unwrap();
    authority.issue("own", &["spiffe://test/shard/1"], NOW);
    let new_key = std::fs::read(&files.key).unwrap();
    std::fs::write(&files.key, key).unwrap();
    assert!(matches!(credentials.reload(), Err(CredentialError::Mismatch { .. })));
    assert_eq!(credentials.version(), 0, "the former pair counts on");
    std::fs::write(&files.key, new_key).unwrap();
    assert!(credentials.reload().unwrap());
    assert_eq!(credentials.version(), 1);
}

#[test]
fn files_of_another_role_and_empty_lists_are_not_used() {
    let authority = Authority::new();
    let files = authority.issue("own", &["spiffe://test/shard/1"], NOW);
    let list = authority.revoke(&[]);
    let files = crate::identity::TlsFiles { revoked: Some(list.clone()), ..files };
    let credentials = Credentials::load(files.clone()).unwrap();
    std::fs::write(&list, "").unwrap();
    let error = credentials.reload().unwrap_err().to_string();
    assert!(error.contains("list of revoked certificates"), "an empty list must not revoke nothing: {error}");
    assert!(Credentials::load(files).is_err());
    authority.revoke(&[]);
    authority.issue("own", &["spiffe://test/shard/2"], NOW);
    let error = credentials.reload().unwrap_err();
    assert!(matches!(error, CredentialError::OtherIdentity { .. }));
    let text = error.to_string();
    assert!(
        text.contains("spiffe://test/shard/2 now") && text.contains("spiffe://test/shard/1 before"),
        "{text}"
    );
    assert_eq!(credentials.identity().role.to_string(), "shard/1");
}

#[tokio::test]
async fn silent_connections_end_and_leave_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ConnectionLimits { silent: 2, first_call: Duration::from_millis(200), ..Default::default() };
    let mut taken = Box::pin(connections(listener, Door::default(), limits));
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    let began = Instant::now();
    for _ in 0..3 {
        clients.push(TcpStream::connect(address).await.unwrap());
        servers.push(taken.next().await.unwrap().unwrap());
    }
    let mut byte = [0];
    let oldest = servers[0].read(&mut byte).await.unwrap_err();
    assert!(oldest.to_string().contains("while others waited"), "{oldest}");
    let newest = servers[2].read(&mut byte).await.unwrap_err();
    assert!(newest.to_string().contains("no call in time"), "{newest}");
    assert!(began.elapsed() >= Duration::from_millis(200), "it ended before the time for its first call");
}

#[tokio::test]
async fn connections_end_that_are_idle_for_too_long_and_not_while_a_call_is_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ConnectionLimits { idle: Duration::from_millis(100), ..Default::default() };
    let mut taken = Box::pin(connections(listener, Door::default(), limits));
    let _client = TcpStream::connect(address).await.unwrap();
    let mut server = taken.next().await.unwrap().unwrap();
    let ConnectionInfo(peer) = server.connect_info();
    peer.calls();
    let call = OpenCall::of(peer.activity());
    let mut byte = [0];
    let waiting = tokio::time::timeout(limits.idle * 3, server.read(&mut byte)).await;
    assert!(waiting.is_err(), "a call is open: {waiting:?}");
    drop(call);
    let ended = server.read(&mut byte).await.unwrap_err();
    assert!(ended.to_string().contains("no call for too long"), "{ended}");
    assert!(peer.activity().idle().unwrap() >= limits.idle);
}

#[tokio::test]
async fn connections_end_that_are_too_old_even_while_a_call_is_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ConnectionLimits::default().aged(Duration::from_millis(100));
    let mut taken = Box::pin(connections(listener, Door::default(), limits));
    let began = Instant::now();
    let _client = TcpStream::connect(address).await.unwrap();
    let mut server = taken.next().await.unwrap().unwrap();
    let ConnectionInfo(peer) = server.connect_info();
    peer.calls();
    let _call = OpenCall::of(peer.activity());
    let ended = server.read(&mut [0]).await.unwrap_err();
    assert!(ended.to_string().contains("too old"), "{ended}");
    // Until then its peer has as much time again to finish its calls.
    assert!(began.elapsed() >= Duration::from_millis(200));
}
