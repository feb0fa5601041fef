//! Who may do what: a fleet with certificates, strangers without, and tokens.
//!
//! | scenario | caller | expectation |
//! |---|---|---|
//! | certificates everywhere, SIGKILL of a shard | client | every block verified |
//! | a service with TLS | plain text; TLS without a certificate; another authority; another role | each refused, with the reason |
//! | a service without TLS | TLS | refused, with the reason on both sides |
//! | a service with TLS | a shard with another shard's, a client's, or no certificate | it does not start, or does not join |
//! | a running service | a certificate that is revoked | refused from then on, without a restart |
//! | a running service | certificates that are renewed | everything goes on |
//! | another coordinator takes over | with its certificate | the first one steps down |
//! | tokens, no TLS | none, a wrong one, a client's, an operator's | each may do what its role may |
//! | the same without certificates | with a token of an operator | the first one steps down |
//! | clients and operators have addresses of their own | each of them, a shard | refused at the addresses of others |
//! | an import with a certificate | a shard with its certificate, one of another authority | only the first joins |
//! | an address that other machines reach | – | refused without TLS, unless asked for |
//! | hardened processes, SIGKILL of a shard | client | no core dumps, no new privileges, every block verified |

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shard_tests::{
    Binary, Chain, Coordinator, Ended, Process, Report, Scene, Shard, scenario, wait_until, within,
};

/// The number of blocks of the chains that are submitted.
const BLOCKS: usize = 20;

/// The folder of one certificate authority, with the certificates that it has issued.
struct Certs(PathBuf);

impl Certs {
    fn init(scene: &Scene, name: &str) -> Result<Self> {
        let certs = Self(scene.path(name));
        certs.command(scene, &["init", "--dir", certs.dir()?])?;
        Ok(certs)
    }

    /// An authority that has issued certificates for these roles.
    fn with(scene: &Scene, roles: &[&str]) -> Result<Self> {
        let certs = Self::init(scene, "certs")?;
        for role in roles {
            certs.command(scene, &["issue", "--dir", certs.dir()?, role])?;
        }
        Ok(certs)
    }

    fn dir(&self) -> Result<&str> {
        self.0.to_str().context("the path is not UTF-8")
    }

    fn command(&self, scene: &Scene, line: &[&str]) -> Result<Ended> {
        run(scene, &[&["certs"], line].concat())?.succeeded("certs")
    }

    fn file(&self, name: &str) -> Result<String> {
        Ok(self.0.join(name).to_str().context("the path is not UTF-8")?.to_owned())
    }

    /// The options that give a process this identity, with the authorities of `trusted`.
    fn trusting(&self, role: &str, trusted: &Self) -> Result<Vec<String>> {
        let name = role.replace('/', "-");
        Ok(vec![
            "--tls-cert".into(),
            self.file(&format!("{name}.pem"))?,
            "--tls-key".into(),
            self.file(&format!("{name}.key"))?,
            "--tls-ca".into(),
            trusted.file("ca.pem")?,
        ])
    }

    fn options(&self, role: &str) -> Result<Vec<String>> {
        self.trusting(role, self)
    }

    /// As [`Self::options`], with the list of revoked certificates.
    fn watchful(&self, role: &str) -> Result<Vec<String>> {
        let mut options = self.options(role)?;
        options.extend(["--tls-crl".into(), self.file("crl.pem")?]);
        Ok(options)
    }
}

fn strs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// Writes a file that only its owner may read.
fn private(scene: &Scene, name: &str, text: &str) -> Result<String> {
    let path = scene.write(name, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(path.to_str().context("not UTF-8")?.to_owned())
}

/// Runs a command of the coordinator's binary to its end.
fn run(scene: &Scene, line: &[&str]) -> Result<Ended> {
    Process::start(scene, line.first().unwrap_or(&"nothing"), Binary::Coordinator, line)?.ended(within(60))
}

fn status(scene: &Scene, url: &str, options: &[String]) -> Result<Ended> {
    run(scene, &[&["status", "--json", "--coordinator", url][..], &strs(options)].concat())
}

/// The numbers of the ready shards.
fn ready(scene: &Scene, url: &str, options: &[String]) -> Result<Vec<u64>> {
    let value: Value = serde_json::from_str(&status(scene, url, options)?.succeeded("status")?.out)?;
    let shards = value.get("shards").and_then(Value::as_array).context("no shards")?;
    let ready = shards.iter().filter(|shard| shard.get("state").is_some_and(|state| state == "ready"));
    Ok(ready.filter_map(|shard| shard.get("shard")?.as_u64()).collect())
}

fn wait_ready(scene: &Scene, url: &str, options: &[String], wanted: &[u64]) -> Result<()> {
    let what = format!("the shards {wanted:?} are ready");
    wait_until(within(30), &what, || Ok(ready(scene, url, options)? == wanted)).map(drop)
}

fn https(coordinator: &Coordinator) -> String {
    format!("https://{}", coordinator.address)
}

/// Starts to submit a chain.
fn submit(scene: &Scene, url: &str, options: &[String], chain: &Path) -> Result<Process> {
    let file = chain.to_str().context("the path is not UTF-8")?;
    let line = ["submit", "--json", "--retry-for", "0", "--coordinator", url, file];
    Process::start(scene, "submit", Binary::Coordinator, [&line[..], &strs(options)].concat())
}

/// A coordinator and two shards with certificates.
fn fleet(scene: &Scene, chain: &Chain, certs: &Certs) -> Result<(Coordinator, Vec<Shard>)> {
    let coordinator = Coordinator::start(scene, chain, &strs(&certs.watchful("coordinator")?))?;
    let url = https(&coordinator);
    let shards =
        [1, 2].map(|id| Shard::start(scene, id, &url, &strs(&certs.watchful(&format!("shard/{id}"))?)));
    let shards = shards.into_iter().collect::<Result<Vec<_>>>()?;
    wait_ready(scene, &url, &certs.options("client/ci")?, &[1, 2])?;
    Ok((coordinator, shards))
}

const ROLES: [&str; 5] = ["coordinator", "shard/1", "shard/2", "client/ci", "operator/ann"];

#[test]
fn a_fleet_with_certificates_survives_the_loss_of_a_shard() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(BLOCKS)?, Certs::with(scene, &ROLES)?);
        let (coordinator, mut shards) = fleet(scene, &chain, &certs)?;
        let mut client = submit(scene, &https(&coordinator), &certs.options("client/ci")?, &chain.rlp())?;
        wait_until(within(30), "the first blocks are answered", || {
            Ok(Report::parse(&client.stdout()?)?.rows.len() >= 3)
        })?;
        shards.remove(0).process.kill()?;
        let ended = client.ended(within(60))?.succeeded("submit")?;
        ended.report()?.check_verified(chain.blocks())
    })
}

#[test]
fn a_service_with_tls_refuses_strangers_and_other_roles() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(2)?, Certs::with(scene, &ROLES)?);
        let others = Certs::init(scene, "others")?;
        others.command(scene, &["issue", "--dir", others.dir()?, "client/ci"])?;
        let coordinator = Coordinator::start(scene, &chain, &strs(&certs.options("coordinator")?))?;
        let url = https(&coordinator);
        let none: [String; 0] = [];
        status(scene, &coordinator.url(), &none)?.refused(&["the coordinator does not"])?;
        status(scene, &url, &none)?.refused(&["https:// needs --tls-cert"])?;
        let (client, operator) = (certs.options("client/ci")?, certs.options("operator/ann")?);
        status(scene, &coordinator.url(), &client)?.refused(&["http:// is not encrypted"])?;
        let stranger = others.trusting("client/ci", &certs)?;
        status(scene, &url, &stranger)?.refused(&["the coordinator does not"])?;
        let trusting_others = certs.trusting("client/ci", &others)?;
        status(scene, &url, &trusting_others)?.refused(&["not of an authority in --tls-ca"])?;

        status(scene, &url, &client)?.succeeded("status")?;
        status(scene, &url, &certs.options("shard/1")?)?.refused(&["client or operator", "shard/1"])?;
        let parked = |options: &[String]| {
            run(scene, &[&["parked", "list", "--coordinator", &url][..], &strs(options)].concat())
        };
        parked(&client)?.refused(&["needs the role operator", "client/ci"])?;
        parked(&operator)?.succeeded("parked list")?;
        let park = |options: &[String]| {
            let hash = format!("0x{}", "12".repeat(32));
            run(scene, &[&["parked", "add", &hash, "--coordinator", &url][..], &strs(options)].concat())
        };
        park(&client)?.refused(&["needs the role operator", "client/ci"])?;
        park(&operator)?.refused(&["is not accepted"])?;
        let drain = |shard: &str, options: &[String]| {
            run(scene, &[&["drain", shard, "--coordinator", &url][..], &strs(options)].concat())
        };
        drain("1", &client)?.refused(&["needs the role operator", "client/ci"])?;
        drain("9", &operator)?.refused(&["there is no shard 9"])?;

        let said = coordinator.process.stderr()?;
        for reason in ["does not speak TLS", "not of an authority in --tls-ca"] {
            ensure!(said.contains(reason), "{reason:?} is not in the coordinator's log");
        }
        Ok(())
    })
}

#[test]
fn a_service_without_tls_names_who_speaks_it() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(2)?, Certs::with(scene, &ROLES)?);
        let coordinator = Coordinator::start(scene, &chain, &[])?;
        let client = certs.options("client/ci")?;
        status(scene, &https(&coordinator), &client)?.refused(&["the other side does not speak TLS"])?;
        let said = coordinator.process.stderr()?;
        ensure!(said.contains("the other side speaks TLS, and this side does not"), "{said}");
        status(scene, &coordinator.url(), &[])?.succeeded("status")?;
        Ok(())
    })
}

#[test]
fn only_a_shard_with_its_own_certificate_joins() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(2)?, Certs::with(scene, &ROLES)?);
        let (coordinator, _shards) = fleet(scene, &chain, &certs)?;
        let url = https(&coordinator);
        for (role, words) in [
            ("shard/1", ["the certificate of shard/1", "needs one of shard/3"]),
            ("client/ci", ["the certificate of client/ci", "needs one of shard/3"]),
        ] {
            let mut shard = Shard::start(scene, 3, &url, &strs(&certs.options(role)?))?;
            shard.process.ended(within(30))?.refused(&words)?;
        }
        let mut plain = Shard::start(scene, 3, &url, &[])?;
        plain.process.ended(within(30))?.refused(&["https:// needs --tls-cert"])?;
        // One that speaks plain text is not heard at all, and the fleet goes on.
        let _stranger = Shard::start_serving(scene, 3, &coordinator.url())?;
        let client = certs.options("client/ci")?;
        let ended = submit(scene, &url, &client, &chain.rlp())?.ended(within(60))?.succeeded("submit")?;
        ended.report()?.check_verified(chain.blocks())?;
        ensure!(ready(scene, &url, &client)? == [1, 2]);
        Ok(())
    })
}

#[test]
fn a_revoked_certificate_is_refused_without_a_restart() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(2)?, Certs::with(scene, &ROLES)?);
        let (coordinator, _shards) = fleet(scene, &chain, &certs)?;
        let (url, client) = (https(&coordinator), certs.options("client/ci")?);
        certs.command(scene, &["revoke", "--dir", certs.dir()?, &certs.file("client-ci.pem")?])?;
        wait_until(within(30), "the client is refused", || Ok(status(scene, &url, &client)?.code != 0))?;
        status(scene, &url, &client)?.refused(&["revoked"])?;
        // A shard that is revoked loses its connections, too.
        let operator = certs.options("operator/ann")?;
        ensure!(ready(scene, &url, &operator)? == [1, 2]);
        certs.command(scene, &["revoke", "--dir", certs.dir()?, &certs.file("shard-2.pem")?])?;
        wait_ready(scene, &url, &operator, &[1])
    })
}

#[test]
fn renewed_certificates_are_read_while_everything_goes_on() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(BLOCKS)?, Certs::with(scene, &ROLES)?);
        let (coordinator, shards) = fleet(scene, &chain, &certs)?;
        let (url, client) = (https(&coordinator), certs.options("client/ci")?);
        let old = certs.0.join("old.pem");
        std::fs::copy(certs.file("shard-1.pem")?, &old)?;
        for role in ["coordinator", "shard/1", "shard/2"] {
            certs.command(scene, &["renew", "--dir", certs.dir()?, role])?;
        }
        let all = || std::iter::once(&coordinator.process).chain(shards.iter().map(|shard| &shard.process));
        wait_until(within(30), "all have read them", || {
            Ok(all()
                .map(Process::stderr)
                .collect::<Result<Vec<_>>>()?
                .iter()
                .all(|log| log.contains("read again")))
        })?;
        let ended = submit(scene, &url, &client, &chain.rlp())?.ended(within(60))?.succeeded("submit")?;
        ended.report()?.check_verified(chain.blocks())?;
        // What was replaced can be revoked: the shard's connections are closed, and it joins with its new one.
        certs.command(scene, &["revoke", "--dir", certs.dir()?, old.to_str().context("not UTF-8")?])?;
        wait_until(within(30), "the old certificate is out of use", || {
            Ok(coordinator.process.stderr()?.contains("no longer trusted"))
        })?;
        wait_ready(scene, &url, &client, &[1, 2])
    })
}

#[test]
fn a_coordinator_takes_over_by_its_certificate() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(2)?, Certs::with(scene, &ROLES)?);
        let folder = scene.path("data");
        let folder = folder.to_str().context("not UTF-8")?;
        let mut options = certs.options("coordinator")?;
        options.extend(["--data-dir".into(), folder.to_owned()]);
        let mut first = Coordinator::start(scene, &chain, &strs(&options))?;
        options.push("--take-over".into());
        let second = Coordinator::start(scene, &chain, &strs(&options))?;
        ensure!(first.process.exit_code(within(30))? == 0, "it did not step down");
        ensure!(first.process.stderr()?.contains("stepping down"));
        status(scene, &https(&second), &certs.options("client/ci")?)?.succeeded("status").map(drop)
    })
}

#[test]
fn tokens_let_clients_and_operators_in() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let (reader, client, operator) = ("r".repeat(40), "c".repeat(40), "o".repeat(40));
        let lines = format!("reader/bob {reader}\nclient/ci {client}\noperator/ann {operator}\n");
        let tokens = private(scene, "tokens", &lines)?;
        let coordinator = Coordinator::start(scene, &chain, &["--tokens", &tokens])?;
        let url = coordinator.url();
        let _shards = Shard::start_all(scene, 1, &url)?;
        let with = |name: &str, text: &str| -> Result<Vec<String>> {
            Ok(vec!["--token-file".into(), private(scene, name, text)?])
        };
        let (client, operator) = (with("client", &client)?, with("operator", &format!("{operator}\n"))?);
        let reader = with("reader", &reader)?;
        status(scene, &url, &[])?.refused(&["has shown no identity", "--token-file"])?;
        status(scene, &url, &with("wrong", &"w".repeat(40))?)?.refused(&["not one of this coordinator's"])?;
        wait_ready(scene, &url, &reader, &[1])?;
        let ended = submit(scene, &url, &reader, &chain.rlp())?.ended(within(60))?;
        ended.refused(&["needs the role client or operator", "reader/bob"])?;
        let ended = submit(scene, &url, &client, &chain.rlp())?.ended(within(60))?.succeeded("submit")?;
        ended.report()?.check_verified(chain.blocks())?;
        let parked = |options: &[String]| {
            run(scene, &[&["parked", "list", "--coordinator", &url][..], &strs(options)].concat())
        };
        parked(&client)?.refused(&["needs the role operator", "client/ci"])?;
        parked(&operator)?.succeeded("parked list")?;
        // A token that is taken out of the file is refused soon.
        private(scene, "tokens", &format!("operator/ann {}\n", "o".repeat(40)))?;
        wait_until(within(30), "the client is refused", || Ok(status(scene, &url, &client)?.code != 0))?;
        status(scene, &url, &client)?.refused(&["not one of this coordinator's"])
    })
}

#[test]
fn a_token_is_enough_over_tls_and_stays_secret() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let certs = Certs::with(scene, &["coordinator", "shard/1"])?;
        let tokens = private(scene, "tokens", &format!("client/ci {}\n", "c".repeat(40)))?;
        let mut options = certs.options("coordinator")?;
        options.extend(["--tokens".into(), tokens]);
        let coordinator = Coordinator::start(scene, &chain, &strs(&options))?;
        let url = https(&coordinator);
        let _shard = Shard::start(scene, 1, &url, &strs(&certs.options("shard/1")?))?;
        let authority = ["--tls-ca".to_owned(), certs.file("ca.pem")?];
        let token = ["--token-file".to_owned(), private(scene, "token", &"c".repeat(40))?];
        let client = [authority.as_slice(), token.as_slice()].concat();
        wait_ready(scene, &url, &client, &[1])?;
        let ended = submit(scene, &url, &client, &chain.rlp())?.ended(within(60))?.succeeded("submit")?;
        ended.report()?.check_verified(chain.blocks())?;
        // Without the authority the token would go to any process at that address.
        status(scene, &url, &token)?.refused(&["--tls-ca"])?;
        status(scene, &url, &authority)?.refused(&["--token-file"])?;
        let other = Certs::init(scene, "other")?;
        let stranger = [["--tls-ca".to_owned(), other.file("ca.pem")?].as_slice(), token.as_slice()].concat();
        status(scene, &url, &stranger)?.refused(&["authority"])?;
        let wrong = ["--token-file".to_owned(), private(scene, "wrong", &"w".repeat(40))?];
        status(scene, &url, &[authority.as_slice(), wrong.as_slice()].concat())?
            .refused(&["not one of this coordinator's"])?;
        let log = coordinator.process.stderr()?;
        ensure!(log.contains("a call was refused"), "the server tells of refusals:\n{log}");
        ensure!(!log.contains(&"c".repeat(40)), "a token is in the log");
        Ok(())
    })
}

#[test]
fn a_coordinator_takes_over_by_a_token_of_an_operator() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let tokens = private(scene, "tokens", &format!("operator/ann {}\n", "o".repeat(40)))?;
        let folder = scene.path("data");
        let folder = folder.to_str().context("not UTF-8")?;
        let mut options = vec!["--tokens", &tokens, "--data-dir", folder];
        let mut first = Coordinator::start(scene, &chain, &options)?;
        options.push("--take-over");
        let _second = Coordinator::start(scene, &chain, &options)?;
        ensure!(first.process.exit_code(within(30))? == 0, "it did not step down");
        ensure!(first.process.stderr()?.contains("stepping down"), "{}", first.process.stderr()?);
        Ok(())
    })
}

#[test]
fn clients_and_operators_may_have_addresses_of_their_own() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let (coordinator, [clients, operators]) = Coordinator::start_apart(scene, &chain)?;
        let url = coordinator.url();
        let _shards = Shard::start_all(scene, 1, &url)?;
        wait_ready(scene, &clients, &[], &[1])?;
        submit(scene, &clients, &[], &chain.rlp())?.ended(within(60))?.succeeded("submit")?;
        let parked = |url: &str| run(scene, &["parked", "list", "--coordinator", url]);
        parked(&operators)?.succeeded("parked list")?;
        status(scene, &operators, &[])?.succeeded("status")?;
        let elsewhere = |served: &str| format!("this address serves the role {served}");
        parked(&clients)?.refused(&["needs the role operator", &elsewhere("reader or client")])?;
        parked(&url)?.refused(&["needs the role operator", &elsewhere("coordinator or shard")])?;
        submit(scene, &url, &[], &chain.rlp())?.ended(within(60))?.refused(&["use the other address"])?;
        // A shard finds no coordinator where clients are served.
        let mut lost = Shard::start(scene, 2, &clients, &[])?;
        let refused = "this call needs the role shard";
        wait_until(within(30), "the shard says why it is refused", || {
            Ok(lost.process.exited()?.is_some() || lost.process.stderr()?.contains(refused))
        })?;
        ensure!(lost.process.stderr()?.contains(refused), "{}", lost.process.stderr()?);
        Ok(())
    })
}

#[test]
fn a_shard_joins_an_import_by_its_certificate() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(40)?, Certs::with(scene, &ROLES)?);
        let (file, genesis) = (chain.rlp().display().to_string(), chain.genesis().display().to_string());
        let (data, address) = (scene.path("data").display().to_string(), scene.path("import.address"));
        let bound = address.display().to_string();
        let line = ["import", &file, "--genesis", &genesis, "--data-dir", &data, "--listen", "127.0.0.1:0"];
        let line = [&line[..], &["--address-file", &bound, "--json", "--plan", "each"]].concat();
        let options = certs.options("coordinator")?;
        run(scene, &[&line[..], &strs(&options)].concat())?.refused(&["add --in-process"])?;
        let line = [&line[..], &["--in-process", "--shards", "1"], &strs(&options)].concat();
        let mut import = Process::start(scene, "import", Binary::Coordinator, &line)?;
        wait_until(within(30), "the import serves", || {
            Ok(std::fs::read_to_string(&address).unwrap_or_default().ends_with('\n'))
        })?;
        let url = format!("https://{}", std::fs::read_to_string(&address)?.trim());
        let stranger = Certs::init(scene, "others")?;
        stranger.command(scene, &["issue", "--dir", stranger.dir()?, "shard/8"])?;
        let stranger = Shard::start(scene, 8, &url, &strs(&stranger.trusting("shard/8", &certs)?))?;
        let shard = Shard::start(scene, 2, &url, &strs(&certs.options("shard/2")?))?;
        let (joined, refused) = ("joined the fleet", "does not trust the authority");
        wait_until(within(60), "one shard has joined, the other is refused", || {
            Ok(shard.process.stderr()?.contains(joined) && stranger.process.stderr()?.contains(refused))
        })?;
        import.ended(within(60))?.succeeded("import")?;
        ensure!(!stranger.process.stderr()?.contains(joined), "a stranger has joined");
        Ok(())
    })
}

#[test]
fn an_address_that_others_reach_needs_tls() -> Result<()> {
    scenario(|scene| {
        let chain = Chain::of(2)?;
        let genesis = chain.genesis();
        let genesis = genesis.to_str().context("not UTF-8")?;
        let words = ["can be reached from other machines", "--tls-cert", "--insecure"];
        run(scene, &["serve", "--genesis", genesis, "--listen", "0.0.0.0:0"])?.refused(&words)?;
        let mut shard = Shard::start(scene, 1, "http://127.0.0.1:1", &["--listen", "0.0.0.0:0"])?;
        shard.process.ended(within(30))?.refused(&words)?;
        let coordinator = Coordinator::start_at(scene, &chain, "0.0.0.0:0", &["--insecure"])?;
        ensure!(coordinator.process.stderr()?.contains("WITHOUT TLS"));
        Ok(())
    })
}

#[test]
fn hardened_processes_do_their_work() -> Result<()> {
    scenario(|scene| {
        let (chain, certs) = (Chain::of(BLOCKS)?, Certs::with(scene, &ROLES)?);
        let with = |role: &str| -> Result<Vec<String>> {
            let mut options = certs.watchful(role)?;
            options.push("--hardened".into());
            Ok(options)
        };
        let coordinator = Coordinator::start(scene, &chain, &strs(&with("coordinator")?))?;
        let (url, client) = (https(&coordinator), certs.options("client/ci")?);
        let start = |id: u32| -> Result<Shard> {
            let mut options = with(&format!("shard/{id}"))?;
            let data = scene.path(&format!("replica-{id}"));
            options.extend(["--data-dir".into(), data.to_str().context("not UTF-8")?.to_owned()]);
            Shard::start(scene, id, &url, &strs(&options))
        };
        let mut shards = [start(1)?, start(2)?];
        wait_ready(scene, &url, &client, &[1, 2])?;
        for process in shards.iter().map(|shard| &shard.process).chain([&coordinator.process]) {
            let told = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", process.pid()));
            for task in std::fs::read_dir(format!("/proc/{}/task", process.pid()))? {
                let (task, name) = (task?.path(), process.name());
                let thread = std::fs::read_to_string(task.join("comm"))?;
                let status = std::fs::read_to_string(task.join("status"))?;
                ensure!(status.contains("NoNewPrivs:\t1"), "thread {thread} of {name} may get privileges");
            }
            let limits = told("limits")?;
            let core =
                limits.lines().find(|line| line.starts_with("Max core file size")).context("no limit")?;
            ensure!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
        }
        let mut submitted = submit(scene, &url, &client, &chain.rlp())?;
        shards[0].process.kill()?;
        let _again = start(1)?;
        submitted.ended(within(60))?.succeeded("submit")?.report()?.check_verified(chain.blocks())?;
        // Certificates are read again within the sandbox.
        certs.command(scene, &["renew", "--dir", certs.dir()?, "shard/2"])?;
        wait_until(within(30), "the shard has read its new certificate", || {
            Ok(shards[1].process.stderr()?.contains("read again"))
        })?;
        wait_ready(scene, &url, &client, &[1, 2])
    })
}
