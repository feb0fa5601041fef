#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tempfile::TempDir;

use super::*;

#[derive(Debug, Parser)]
#[command(name = "coordinator")]
struct Line {
    #[command(subcommand)]
    what: What,

    #[arg(long, global = true, default_value = "info")]
    log: String,
}

#[derive(Debug, Subcommand)]
enum What {
    Serve(Serve),
    Certs {
        #[command(subcommand)]
        what: Certs,
    },
}

#[derive(Debug, Subcommand)]
enum Certs {
    Issue {
        #[arg(long)]
        days: u32,
        role: String,
    },
}

#[derive(Debug, Args)]
struct Serve {
    #[arg(long)]
    listen: String,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    threads: u16,
    #[arg(long)]
    hardened: bool,
    #[arg(long)]
    network: Vec<String>,
    #[arg(long, hide = true)]
    fault: Option<String>,
    file: Option<PathBuf>,
}

/// Reads a command line, which `--config` and a file with this text precede.
fn with(text: &str, line: &str) -> Result<Read<Line>, Refused> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shards.toml");
    fs::write(&path, text).unwrap();
    let line = format!("coordinator --config {} {line}", path.display());
    read(line.split_whitespace().map(OsString::from).collect())
}

fn serve(text: &str, line: &str) -> (Serve, String) {
    match with(text, line).unwrap() {
        Read::Options(options) => match options.what {
            What::Serve(serve) => (serve, options.log),
            What::Certs { .. } => panic!("it is serve"),
        },
        Read::Dump(text) => panic!("{text}"),
    }
}

fn refused(text: &str, line: &str) -> String {
    match with(text, line).map(drop).unwrap_err() {
        Refused::Line(error, source) => format!("{error}{}", source.unwrap_or_default()),
        Refused::File(error) => error.to_string(),
    }
}

const FILE: &str = "
[coordinator]
log = 'warn'

[coordinator.serve]
listen = '10.0.0.1:7700'
threads = 4
hardened = true
network = ['10.0.0.0/8', '192.168.0.0/16']

[executor-shard]
shard-id = 3
";

#[test]
fn a_file_gives_what_the_command_line_does_not() {
    let (options, log) = serve(FILE, "serve");
    assert_eq!((options.listen.as_str(), options.threads, options.hardened), ("10.0.0.1:7700", 4, true));
    assert_eq!(options.network, ["10.0.0.0/8", "192.168.0.0/16"]);
    assert_eq!(log, "warn");
    let (options, log) = serve(FILE, "--log debug serve --threads=2 --network 127.0.0.0/8 blocks.rlp");
    assert_eq!((options.threads, options.network), (2, vec!["127.0.0.0/8".to_owned()]));
    assert_eq!((log.as_str(), options.file), ("debug", Some("blocks.rlp".into())));
    let (options, log) = serve("[coordinator.serve]\nlisten='x'\nlog='trace'\nhardened=false", "serve");
    assert_eq!((options.hardened, options.threads, log.as_str()), (false, 1, "trace"));
}

#[test]
fn a_command_below_a_command_has_a_table_below_its_own() {
    let text = "[coordinator.certs.issue]\ndays = 9\n[coordinator.serve]\nlisten = 'x'";
    let Read::Options(options) = with(text, "certs issue client/ann").unwrap() else {
        panic!("it is a dump")
    };
    let What::Certs { what: Certs::Issue { days, role } } = options.what else { panic!("it is certs") };
    assert_eq!((days, role.as_str()), (9, "client/ann"));
}

#[test]
fn a_value_that_looks_like_a_command_is_none() {
    let (options, log) = serve(FILE, "--log certs serve");
    assert_eq!((options.threads, log.as_str()), (4, "certs"));
}

#[test]
fn what_a_file_may_not_say_is_named_with_its_place() {
    let says = |text: &str, wanted: &[&str]| {
        let said = refused(text, "serve --listen x");
        for wanted in wanted {
            assert!(said.contains(wanted), "{said} lacks {wanted}");
        }
    };
    says(
        "[coordinator.serve]\nlisen = 'x'",
        &["shards.toml", "[coordinator.serve]", "`lisen`", "did you mean `listen`?"],
    );
    says("[coordinater.serve]", &["no program `coordinater`", "did you mean `coordinator`?"]);
    says("[coordinator.server]", &["[coordinator] has no option `server`", "`serve`"]);
    says("[coordinator]\nthreads = 2", &["[coordinator] has no option `threads`"]);
    says("[coordinator.serve]\nfault = 'hang'", &["no option `fault`"]);
    says("[coordinator.serve]\nconfig = 'x'", &["no option `config`"]);
    says("[coordinator.serve]\nthreads = [[1]]", &["`threads`", "a list in a list"]);
    says("[coordinator.serve]\nhardened = 1", &["`hardened`", "neither true nor false"]);
    says(
        "[coordinator.serve]\nthreads = 2000",
        &["2000", "1..=8", "`threads` is from [coordinator.serve] of"],
    );
    says("[coordinator.serve", &["it is not TOML", "line 1"]);
    says("coordinator = 5", &["`coordinator` is no table but of type integer; write [coordinator]"]);
    let none = read::<Line>(["coordinator", "--config", "/no/such", "serve"].map(OsString::from).into());
    let Err(Refused::File(error)) = none else { panic!("a file that is not there was read") };
    assert!(error.to_string().contains("/no/such: it cannot be read"), "{error}");
}

#[test]
fn the_name_of_the_file_is_no_command() {
    let line = ["coordinator", "--config", "certs", "serve"].map(OsString::from);
    assert_eq!(Place::of(&with_sources(Line::command()), &line).names, ["serve"]);
}

#[test]
fn a_dump_can_be_read_again_and_names_every_source() {
    let Read::Dump(text) = with(FILE, "serve --threads 2 --dump-config").unwrap() else { panic!("no dump") };
    for line in [
        "log = \"warn\" # [coordinator] of",
        "listen = \"10.0.0.1:7700\" # [coordinator.serve] of",
        "threads = 2 # the command line",
        "hardened = true # [coordinator.serve] of",
        "network = [\"10.0.0.0/8\", \"192.168.0.0/16\"] # ",
    ] {
        assert!(text.contains(line), "{text} lacks {line}");
    }
    let (options, _) = serve(&text, "serve");
    assert_eq!((options.threads, options.hardened, options.network.len()), (2, true, 2));
    let Read::Dump(text) = with("", "serve --listen x --dump-config").unwrap() else { panic!("no dump") };
    assert!(text.contains("threads = 1 # default") && text.contains("network is not set"), "{text}");
}

#[test]
fn names_of_variables_follow_from_those_of_options() {
    assert_eq!(variable("tls-cert"), "SHARDS_TLS_CERT");
    let command = with_sources(Line::command());
    let serve = command.find_subcommand("serve").unwrap();
    let of = |id: &str| {
        serve.get_arguments().find(|arg| arg.get_id() == id).unwrap().get_env().map(OsStr::to_owned)
    };
    assert_eq!(of("listen"), Some("SHARDS_LISTEN".into()));
    assert_eq!(of("fault"), None, "it is only for the command line");
    assert_eq!(of("file"), None);
}
