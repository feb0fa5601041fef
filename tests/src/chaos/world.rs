//! The processes of a chaos run and the proxies between them.
//!
//! A shard reaches the coordinator through one proxy, the coordinator reaches the shard through
//! another, and the client reaches the coordinator through a third. The proxies follow the processes
//! that serve. Before a process is killed, its proxies stop leading to it: otherwise a proxy would
//! still accept connections after the process's death.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::fault::{Drawn, Fault, LOST_AFTER, Link, PANIC, ShardIndex, Subject};
use super::post::{News, Post};
use crate::artefacts::Binary;
use crate::process::{Process, Signal};
use crate::proxy::{Proxy, Shape};
use crate::scene::Scene;

/// How long after a shard's death the coordinator may still consider its id taken. While the link is
/// cut the coordinator sees no end of the connection, so the silence must last.
const TAKEN_FOR: Duration = Duration::from_secs(15);

/// A shard and its proxies.
#[derive(Debug)]
struct Member {
    id: u32,
    post: Post,
    up: Proxy,
    down: Proxy,
    folder: Option<PathBuf>,
    /// The value of `--fault`, if the shard is started with one.
    wrong: Option<&'static str>,
    killed_at: Option<Instant>,
    /// Whether the shard was asked to end.
    leaving: bool,
    /// The time of the shard's next start.
    starts_at: Option<Instant>,
}

/// The processes and the proxies of a run.
#[derive(Debug)]
pub(super) struct World<'a> {
    scene: &'a Scene,
    line: Vec<OsString>,
    coordinator: Post,
    coordinator_starts_at: Option<Instant>,
    members: Vec<Member>,
    client: Proxy,
    /// Whether a restarted coordinator serves and has not been checked yet.
    pub(super) returned: bool,
    /// The number of times that a shard was rejected because its former incarnation was still in the fleet.
    pub(super) turned_away: u64,
    /// The logs that may contain the panic of a thread.
    pub(super) may_panic: Vec<String>,
}

impl<'a> World<'a> {
    /// Starts a coordinator of this chain and this many shards. The first shard has a data directory.
    pub(super) fn start(
        scene: &'a Scene,
        genesis: PathBuf,
        data: PathBuf,
        [plan, verify]: [&str; 2],
        shards: u32,
    ) -> Result<Self> {
        let limit = LOST_AFTER.as_millis().to_string();
        let texts = [
            "serve",
            "--exit-with-parent",
            "--listen",
            "127.0.0.1:0",
            "--plan",
            plan,
            "--verify-fraction",
            verify,
            "--lost-after-ms",
            &limit,
        ];
        let mut line: Vec<OsString> = texts.into_iter().map(OsString::from).collect();
        line.extend(["--genesis".into(), genesis.into(), "--data-dir".into(), data.clone().into()]);
        let member = |id| {
            Ok(Member {
                id,
                post: Post::default(),
                up: Proxy::start()?,
                down: Proxy::start()?,
                folder: (id == 1).then(|| data.with_extension("replica")),
                wrong: None,
                killed_at: None,
                leaving: false,
                starts_at: Some(Instant::now()),
            })
        };
        let mut world = Self {
            scene,
            line,
            coordinator: Post::default(),
            coordinator_starts_at: None,
            members: (1..=shards).map(member).collect::<Result<_>>()?,
            client: Proxy::start()?,
            returned: false,
            turned_away: 0,
            may_panic: Vec::new(),
        };
        world.start_coordinator()?;
        Ok(world)
    }

    /// The ids of the shards.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.id).collect()
    }

    /// The URL of the coordinator for clients, if it serves.
    pub(super) fn client_url(&self) -> Option<String> {
        self.coordinator.address().map(|_| self.client.url())
    }

    /// The coordinator's own URL without a proxy, if it serves.
    pub(super) fn direct_url(&self) -> Option<String> {
        self.coordinator.address().map(|address| format!("http://{address}"))
    }

    /// Whether every process serves.
    pub(super) fn is_whole(&self) -> bool {
        let shards = self.members.iter().all(|member| member.post.address().is_some() && !member.leaving);
        shards && self.coordinator.address().is_some()
    }

    /// Checks every process, and starts those that are due.
    ///
    /// # Errors
    /// An error if a process has ended in a way that no fault explains, or does not serve in time.
    pub(super) fn look(&mut self) -> Result<()> {
        let now = Instant::now();
        match self.coordinator.look()? {
            News::None => {}
            News::Serves => {
                self.returned = true;
                self.aim()?;
            }
            News::Ended(process, status) => return unexplained(&process, status),
        }
        if self.coordinator_starts_at.is_some_and(|at| at <= now) {
            self.start_coordinator()?;
        }
        let mut changed = false;
        for member in &mut self.members {
            match member.post.look()? {
                News::None => {}
                News::Serves => changed = true,
                News::Ended(process, status) => {
                    changed = true;
                    self.turned_away += u64::from(member.ended(&process, status)?);
                }
            }
            if member.starts_at.is_some_and(|at| at <= now) {
                self.may_panic.extend(member.start(self.scene)?);
            }
        }
        if changed { self.aim() } else { Ok(()) }
    }

    /// Leads every proxy to its target's current address. The link to the coordinator opens once the link
    /// to the shard is open.
    fn aim(&mut self) -> Result<()> {
        let coordinator = self.coordinator.address();
        self.client.lead_to(coordinator)?;
        for member in &mut self.members {
            let shard = member.post.address();
            member.down.lead_to(shard)?;
            member.up.lead_to(shard.and(coordinator))?;
        }
        Ok(())
    }

    fn start_coordinator(&mut self) -> Result<()> {
        self.coordinator_starts_at = None;
        self.coordinator.start(self.scene, "coordinator", Binary::Coordinator, self.line.clone())?;
        Ok(())
    }

    fn member(&mut self, place: ShardIndex) -> Result<&mut Member> {
        self.members.get_mut(place).context("there is no such shard")
    }

    fn link(&mut self, link: Link) -> Result<&mut Proxy> {
        Ok(match link {
            Link::Up(place) => &mut self.member(place)?.up,
            Link::Down(place) => &mut self.member(place)?.down,
            Link::Client => &mut self.client,
        })
    }

    /// Whether this object can have a fault now: its process must be running.
    pub(super) fn serves(&self, subject: Subject) -> bool {
        match subject {
            Subject::Shard(place) => self
                .members
                .get(place)
                .is_some_and(|member| member.post.address().is_some() && !member.leaving),
            Subject::Coordinator => self.coordinator.address().is_some(),
            Subject::Link(_) => true,
        }
    }

    /// Begins a fault.
    ///
    /// # Errors
    /// An error if the fault cannot be applied.
    pub(super) fn begin(&mut self, drawn: &Drawn) -> Result<()> {
        match &drawn.fault {
            Fault::KillShards(places) => self.kill_shards(places),
            Fault::DrainShard(place) => {
                let member = self.member(*place)?;
                member.leaving = true;
                member.post.signal(Signal::Term)
            }
            Fault::FreezeShard(place) => self.member(*place)?.post.signal(Signal::Stop),
            Fault::Mislead(place, wrong) => self.restart(*place, Some(wrong)),
            Fault::KillCoordinator => {
                let process = self.coordinator.vacate();
                self.aim()?;
                process.map_or(Ok(()), |mut process| process.kill())
            }
            Fault::FreezeCoordinator => self.coordinator.signal(Signal::Stop),
            Fault::Reset(link) => {
                self.link(*link)?.reset();
                Ok(())
            }
            Fault::Worsen(link, ways, shape) => {
                let proxy = self.link(*link)?;
                ways.iter().try_for_each(|way| proxy.shape(*way, *shape))
            }
        }
    }

    /// Lifts a fault whose time is over.
    ///
    /// # Errors
    /// An error if the fault cannot be lifted.
    pub(super) fn lift(&mut self, drawn: &Drawn) -> Result<()> {
        let now = Some(Instant::now());
        match &drawn.fault {
            Fault::KillShards(places) => {
                places.iter().try_for_each(|place| self.member(*place).map(|member| member.starts_at = now))
            }
            Fault::DrainShard(_) | Fault::Reset(_) => Ok(()),
            Fault::FreezeShard(place) => self.member(*place)?.post.signal(Signal::Continue),
            Fault::Mislead(place, _) => self.restart(*place, None),
            Fault::KillCoordinator => {
                self.coordinator_starts_at = now;
                Ok(())
            }
            Fault::FreezeCoordinator => self.coordinator.signal(Signal::Continue),
            Fault::Worsen(link, ways, _) => {
                let proxy = self.link(*link)?;
                ways.iter().try_for_each(|way| proxy.shape(*way, Shape::default()))
            }
        }
    }

    fn kill_shards(&mut self, places: &[ShardIndex]) -> Result<()> {
        let mut doomed = Vec::new();
        for place in places {
            let member = self.member(*place)?;
            member.killed_at = Some(Instant::now());
            doomed.extend(member.post.vacate());
        }
        self.aim()?;
        doomed.iter_mut().try_for_each(Process::kill)
    }

    /// Kills a shard and restarts it with this fault, or without one.
    fn restart(&mut self, place: ShardIndex, wrong: Option<&'static str>) -> Result<()> {
        self.kill_shards(&[place])?;
        let member = self.member(place)?;
        member.wrong = wrong;
        member.starts_at = Some(Instant::now());
        Ok(())
    }

    /// Asks every process to stop, shards first, and waits for their ends.
    ///
    /// # Errors
    /// An error if a process does not end cleanly.
    pub(super) fn stop(&mut self) -> Result<()> {
        let shards = self.members.iter_mut().filter_map(|member| member.post.vacate());
        for mut process in shards.chain(self.coordinator.vacate()).collect::<Vec<_>>() {
            process.signal(Signal::Term)?;
            let code = process.exit_code(Duration::from_secs(30))?;
            ensure!(code == 0, "{} was asked to stop and ended with {code}", process.name());
        }
        Ok(())
    }
}

impl Member {
    /// Starts the shard. Returns the name of its log if its workers may panic.
    fn start(&mut self, scene: &Scene) -> Result<Option<String>> {
        let id = self.id.to_string();
        let address: SocketAddr = self.down.address();
        let texts = ["--exit-with-parent", "--shard-id", &id, "--listen", "127.0.0.1:0", "--coordinator"];
        let mut line: Vec<OsString> = texts.into_iter().map(OsString::from).collect();
        line.extend([self.up.url().into(), "--advertise".into(), address.to_string().into()]);
        if let Some(folder) = &self.folder {
            line.extend(["--data-dir".into(), folder.clone().into()]);
        }
        if let Some(wrong) = self.wrong {
            line.extend(["--allow-faults", "--fault", wrong].map(OsString::from));
        }
        (self.starts_at, self.leaving) = (None, false);
        let process = self.post.start(scene, &format!("shard-{id}"), Binary::ExecutorShard, line)?;
        Ok((self.wrong == Some(PANIC)).then(|| process.name().to_owned()))
    }

    /// Handles the end of the shard's process. Returns whether it was rejected because its former
    /// incarnation still counts.
    fn ended(&mut self, process: &Process, status: ExitStatus) -> Result<bool> {
        let now = Instant::now();
        // A shard that cannot reach its coordinator may not have delivered every result.
        if self.leaving && matches!(status.code(), Some(0 | 3)) {
            self.starts_at = Some(now);
            return Ok(false);
        }
        let recently = self.killed_at.is_some_and(|at| now < at + TAKEN_FOR);
        if recently && status.code() == Some(1) && process.stderr()?.contains("alive in another process") {
            self.starts_at = Some(now + LOST_AFTER / 2);
            return Ok(true);
        }
        unexplained(process, status)
    }
}

fn unexplained<T>(process: &Process, status: ExitStatus) -> Result<T> {
    bail!("{} ended with {status}, which no fault explains", process.name())
}
