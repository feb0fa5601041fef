//! Where a shard may be. The coordinator connects to the address that a shard advertises; it must not connect to
//! other hosts because a shard names them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::endpoint::PeerError;
use common::message::{Caller, Register};
use ipnet::IpNet;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// The address at which a shard may be called, `HOST:PORT` with a numeric host. An advertised name is looked up
/// once, so that it cannot mean another host later.
///
/// # Errors
/// [`PeerError::Refused`] if the shard must not be called there, [`PeerError::Unreachable`] if the name has no
/// address.
pub(super) async fn place_of(
    register: &Register,
    networks: &[IpNet],
    within: Duration,
) -> Result<String, PeerError> {
    let advertised = register.advertise.as_str();
    // The scheme is checked where the connection is made.
    let (scheme, host) = match advertised.split_once("://") {
        Some((scheme, host)) => (format!("{scheme}://"), host.trim_end_matches('/')),
        None => (String::new(), advertised),
    };
    let unknown = |reason: String| PeerError::Unreachable(format!("{advertised}: {reason}"));
    let found: Vec<SocketAddr> = match timeout(within, lookup_host(host)).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return Err(unknown(error.to_string())),
        Err(_) => return Err(unknown(format!("its name was not found within {within:?}"))),
    };
    let Some(first) = found.first() else { return Err(unknown("its name has no address".into())) };
    // A name may have several addresses, and the shard listens at one of them: most likely where it calls from.
    let its_own = |address: &&SocketAddr| register.from.is_some_and(|from| from.address == address.ip());
    let mut allowed = found.iter().filter(|address| may_be(address.ip(), register.from, networks));
    match found.iter().find(its_own).or_else(|| allowed.next()) {
        Some(address) => Ok(format!("{scheme}{address}")),
        None => Err(PeerError::Refused(format!(
            "shard {} calls from {} and advertises {}; let it advertise its own address, or allow its network with \
             --shard-network at the coordinator",
            register.shard,
            register.from.map_or_else(|| "this process".to_owned(), |caller| caller.address.to_string()),
            first.ip(),
        ))),
    }
}

/// Whether a shard that calls from there may be at this address.
fn may_be(address: IpAddr, from: Option<Caller>, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    let its_own = from.is_some_and(|caller| {
        caller.address.to_canonical() == address || (caller.same_machine && address.is_loopback())
    });
    its_own || networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use common::id::{Incarnation, ShardId};
    use common::token::SessionToken;

    use super::*;

    async fn place(advertise: &str, from: &str, networks: &[&str]) -> Result<String, PeerError> {
        let (address, same_machine) = match from.strip_prefix('=') {
            Some(address) => (address, true),
            None => (from, false),
        };
        let register = Register {
            protocol: 0,
            build: String::new(),
            engine: String::new(),
            shard: ShardId(4),
            incarnation: Incarnation(1),
            slots: 1,
            advertise: advertise.into(),
            from: Some(Caller { address: address.parse().unwrap(), same_machine }),
            state: None,
            chain_id: None,
            token: SessionToken::fresh(),
        };
        let networks: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
        place_of(&register, &networks, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_shard_is_called_where_it_calls_from() {
        assert_eq!(place("10.0.0.9:7801", "10.0.0.9", &[]).await.unwrap(), "10.0.0.9:7801");
        assert_eq!(place("https://10.0.0.9:7801/", "10.0.0.9", &[]).await.unwrap(), "https://10.0.0.9:7801");
        assert_eq!(place("[::ffff:10.0.0.9]:1", "10.0.0.9", &[]).await.unwrap(), "[::ffff:10.0.0.9]:1");
        assert_eq!(place("localhost:1", "=127.0.0.1", &[]).await.unwrap().rsplit(':').next(), Some("1"));
    }

    #[tokio::test]
    async fn no_shard_has_the_coordinator_call_other_hosts() {
        for (advertise, from) in
            [("10.0.0.1:22", "10.0.0.9"), ("127.0.0.1:22", "10.0.0.9"), ("[::1]:22", "10.0.0.9")]
        {
            let refused = place(advertise, from, &[]).await.unwrap_err();
            assert!(matches!(&refused, PeerError::Refused(reason) if reason.contains("--shard-network")));
        }
        assert!(matches!(place("not an address", "10.0.0.9", &[]).await, Err(PeerError::Unreachable(_))));
    }

    #[tokio::test]
    async fn a_shard_on_this_machine_may_be_on_loopback_and_others_where_the_operator_says() {
        assert!(place("127.0.0.1:22", "=10.0.0.9", &[]).await.is_ok());
        assert!(place("127.0.0.2:22", "=127.0.0.1", &[]).await.is_ok());
        assert!(place("10.0.0.1:22", "=10.0.0.9", &[]).await.is_err());
        assert!(place("10.1.0.1:7801", "10.0.0.9", &["10.1.0.0/16"]).await.is_ok());
        assert!(place("10.2.0.1:7801", "10.0.0.9", &["10.1.0.0/16", "fd00::/8"]).await.is_err());
    }
}
