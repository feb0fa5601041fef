//! `coordinator certs`: a certificate authority for one fleet, in a folder.
//!
//! It is meant for development and small installations. Where there is an authority already, it issues the
//! certificates: all that counts is the name `spiffe://FLEET/ROLE` in them (docs/security.md).

mod authority;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use net::identity::{Details, Role};
use serde_json::json;
use tasks::console::{print_json, print_line};
use tasks::supervise::Exit;

use authority::Authority;

/// Options of `coordinator certs`.
#[derive(Debug, Clone, Args)]
pub struct CertsArgs {
    /// What to do
    #[command(subcommand)]
    pub command: CertsCommand,
}

/// What `coordinator certs` does.
#[derive(Debug, Clone, Subcommand)]
pub enum CertsCommand {
    /// Make an authority in a new folder
    Init {
        /// The folder of the authority, which must not exist
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The fleet's name. Peers of different fleets do not trust each other
        #[arg(long, value_name = "NAME", default_value = "shards")]
        fleet: String,
        /// How long the authority is valid
        #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = days())]
        days: u32,
    },
    /// Issue a certificate and its key
    Issue(OneRole),
    /// Replace a certificate and its key by new ones. Running processes read them by themselves
    Renew(OneRole),
    /// Revoke a certificate: writes it to crl.pem, for --tls-crl
    Revoke {
        /// The folder of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// The certificate (PEM)
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show whom certificates name, and how long they are valid
    Show {
        /// The certificates (PEM)
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Print one JSON object per certificate
        #[arg(long)]
        json: bool,
    },
}

/// The certificate to issue.
#[derive(Debug, Clone, Args)]
pub struct OneRole {
    /// The folder of the authority; the certificate and its key are written to it
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// How long the certificate is valid
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = days())]
    pub days: u32,

    /// Whom it names: coordinator, shard/NUMBER, reader/NAME, client/NAME or operator/NAME
    #[arg(value_name = "ROLE")]
    pub role: Role,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36500)
}

/// Runs one of the `certs` commands.
pub(super) fn certs(args: &CertsArgs) -> anyhow::Result<Exit> {
    match &args.command {
        CertsCommand::Init { dir, fleet, days } => {
            Authority::create(dir, fleet, *days)?;
            print_line(dir.join(authority::CERTIFICATE).display())?;
        }
        CertsCommand::Issue(OneRole { dir, days, role }) => {
            print_line(Authority::open(dir)?.issue(role, *days)?.display())?;
        }
        CertsCommand::Renew(OneRole { dir, days, role }) => {
            print_line(Authority::open(dir)?.renew(role, *days)?.display())?;
        }
        CertsCommand::Revoke { dir, file } => {
            let revoked = Authority::open(dir)?.revoke(&details(file)?)?;
            print_line(revoked.display())?;
        }
        CertsCommand::Show { files, json } => {
            for file in files {
                show(file, *json)?;
            }
        }
    }
    Ok(Exit::Clean)
}

fn details(file: &Path) -> anyhow::Result<Details> {
    Ok(Details::read(file)?)
}

fn show(file: &Path, as_json: bool) -> anyhow::Result<()> {
    let Details { identity, serial, begins, expires } = details(file)?;
    let unix = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    if as_json {
        let value = json!({
            "file": file, "identity": identity.to_string(), "serial": serial, "begins": unix(begins),
            "expires": unix(expires),
        });
        return Ok(print_json(&value)?);
    }
    let validity = match expires.duration_since(SystemTime::now()) {
        Ok(left) => format!("expires in {}", in_words(left)),
        Err(since) => format!("expired {} ago", in_words(since.duration())),
    };
    Ok(print_line(format_args!("{}: {identity}, serial {serial}, {validity}", file.display()))?)
}

fn in_words(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    if hours < 48 { format!("{hours} hours") } else { format!("{} days", hours / 24) }
}
