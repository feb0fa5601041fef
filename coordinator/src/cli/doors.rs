//! Where a coordinator serves whom, and how it knows them.
//!
//! One address serves every role, unless clients or operators have an address of their own: then a network policy
//! can tell them apart. What a role may call is decided in `net::identity`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use ipnet::IpNet;
use net::connections::ConnectionLimits;
use net::identity::{Door, Roles, Security, ServerArgs, Token};
use net::serve::{Bound, Health};
use tasks::descriptors::raise_open_files;
use tasks::options::seconds;
use tasks::supervise::SupervisorHandle;
use tonic::service::Routes;

/// How old a connection becomes, in seconds. Shards have no such limit: the end of a coordinator's connection is the end
/// of the shard to it.
const CONNECTION_AGE: u64 = 3_600;

/// Who a coordinator is, and how its callers prove who they are.
#[derive(Debug, Clone, Default, Args)]
pub struct DoorArgs {
    /// The coordinator's identity, and where it may serve.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Let clients and operators in by the tokens of this file, a line each: reader/NAME TOKEN,
    /// client/NAME TOKEN or operator/NAME TOKEN
    #[arg(long, value_name = "FILE", env = "SHARDS_TOKENS", help_heading = "TLS")]
    pub tokens: Option<PathBuf>,

    /// Call shards in these networks too, for example 10.1.0.0/16. A shard is called at the address that it calls
    /// from, and on the coordinator's machine also on loopback, whatever it advertises
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub shard_network: Vec<IpNet>,

    /// How old a connection becomes before its peer is asked for a new one [default: 3600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds(1..=604_800))]
    pub connection_age: Option<u64>,
}

impl DoorArgs {
    /// Reads the certificates and tokens for a server on `listen`, and has them read again when they change.
    /// Returns the door of the server, and how this process proves its own identity to others.
    pub fn open(
        &self,
        listen: SocketAddr,
        supervisor: &SupervisorHandle,
    ) -> anyhow::Result<(Door, Security)> {
        let credentials = self.server.credentials(listen, Roles::COORDINATOR, None)?;
        let door = Door::new(credentials.clone(), self.tokens.as_deref())?;
        // Another coordinator asks it as an operator for the data directory, if it knows it by tokens only.
        let token = self.tokens.as_deref().map(Token::of_operator).transpose()?.flatten();
        supervisor.spawn_critical("door", door.clone().watch(supervisor.shutdown_token()));
        Ok((door, Security::new(credentials, token)))
    }

    /// The limits of the connections to one address, which may take as many of the files that the process may open.
    pub fn limits(&self, files: u64) -> ConnectionLimits {
        let age = Duration::from_secs(self.connection_age.unwrap_or(CONNECTION_AGE));
        ConnectionLimits::default().within(files).aged(age)
    }

    /// Whether the server has TLS.
    pub fn has_tls(&self) -> bool {
        self.server.tls.tls_cert.is_some()
    }
}

/// The addresses of a coordinator for certain roles only.
#[derive(Debug, Clone, Default, Args)]
pub struct ListenerArgs {
    /// Serve clients and readers at this address, and no longer at --listen
    #[arg(long, value_name = "ADDR")]
    pub listen_clients: Option<SocketAddr>,

    /// Serve operators at this address, and no longer at --listen
    #[arg(long, value_name = "ADDR")]
    pub listen_operators: Option<SocketAddr>,
}

/// The bound addresses of a coordinator.
#[derive(Debug)]
pub struct Listeners {
    /// For shards, and for the roles without an address of their own.
    main: Bound,
    clients: Option<Bound>,
    operators: Option<Bound>,
}

impl ListenerArgs {
    /// Binds `listen` and the addresses of certain roles. All are served behind `door`.
    pub async fn bind(&self, listen: SocketAddr, door: &Door, args: &DoorArgs) -> anyhow::Result<Listeners> {
        let others = [
            (self.listen_clients, Roles::CLIENT.or(Roles::READER)),
            (self.listen_operators, Roles::OPERATOR),
        ];
        let mut left = Roles::ALL;
        for (address, role) in
            others.iter().filter_map(|(address, role)| address.map(|address| (address, *role)))
        {
            if address == listen && address.port() != 0 {
                bail!("{address} is given twice: --listen serves the roles without an address of their own");
            }
            args.server.listen.check(address, args.has_tls())?;
            left = left.without(role);
        }
        // The addresses share the files that the process may open; the shards' has half.
        let (mut files, several) = (raise_open_files(), left != Roles::ALL);
        if several {
            files /= 2;
        }
        let main = bind(listen, door.only(left), args.limits(files)).await?;
        let mut bound = Vec::with_capacity(others.len());
        for (address, role) in others {
            bound.push(match address {
                Some(address) => Some(bind(address, door.only(role), args.limits(files / 2)).await?),
                None => None,
            });
        }
        let mut bound = bound.into_iter();
        Ok(Listeners { main, clients: bound.next().flatten(), operators: bound.next().flatten() })
    }
}

async fn bind(address: SocketAddr, door: Door, limits: ConnectionLimits) -> anyhow::Result<Bound> {
    Ok(Bound::bind(address).await?.behind(door).limited(limits))
}

impl Listeners {
    /// The address that shards reach.
    pub fn address(&self) -> SocketAddr {
        self.main.address()
    }

    /// Writes the addresses to a file: that of the shards in the first line, the others in one line each with
    /// their names.
    pub fn note(&self, file: &Path) -> anyhow::Result<()> {
        let mut text = format!("{}\n", self.main.address());
        for (name, bound) in [("clients", &self.clients), ("operators", &self.operators)] {
            if let Some(bound) = bound {
                text.push_str(&format!("{name} {}\n", bound.address()));
            }
        }
        fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
    }

    /// Serves the routes on every address until shutdown.
    pub fn serve(self, routes: &Routes, health: &Health, supervisor: &SupervisorHandle) {
        let named = [("clients-server", self.clients), ("operators-server", self.operators)];
        let others = named.into_iter().filter_map(|(name, bound)| bound.map(|bound| (name, bound)));
        for (name, bound) in std::iter::once(("server", self.main)).chain(others) {
            if name != "server" {
                tracing::info!(address = %bound.address(), "{name}: serving");
            }
            supervisor.spawn_critical(
                name,
                bound.serve(routes.clone(), health.clone(), supervisor.shutdown_token()),
            );
        }
    }
}
