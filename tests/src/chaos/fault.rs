//! The faults of a chaos run, and how they are drawn.

use std::time::Duration;

use super::random::Random;
use crate::proxy::{Direction, Shape};

/// The silence limit of the coordinators and shards, after which a peer counts as lost.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(1);

/// The fault of a shard whose log may contain the panic of a thread.
pub(super) const PANIC: &str = "panic@5";

/// A shard by its position in the fleet, counted from 0.
pub(super) type ShardIndex = usize;

/// A connection with a proxy in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    /// The connection from a shard to the coordinator.
    Up(ShardIndex),
    /// The connection from the coordinator to a shard.
    Down(ShardIndex),
    /// The connection from the client to the coordinator.
    Client,
}

/// An object that can have one fault at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Shard(ShardIndex),
    Coordinator,
    Link(Link),
}

/// The kind of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL, and a restart later.
    KillShards(Vec<ShardIndex>),
    /// SIGTERM, and a restart later.
    DrainShard(ShardIndex),
    /// SIGSTOP, and SIGCONT later.
    FreezeShard(ShardIndex),
    /// A restart with `--fault`, and a restart without it later.
    Mislead(ShardIndex, &'static str),
    /// SIGKILL, and a restart later.
    KillCoordinator,
    /// SIGSTOP, and SIGCONT later.
    FreezeCoordinator,
    /// Every connection of the link is reset.
    Reset(Link),
    /// These directions of the link get this shape.
    Worsen(Link, &'static [Direction], Shape),
}

/// A fault and its duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) fault: Fault,
    pub(super) lasts: Duration,
}

/// Draws a fault of one kind for a fleet with this many shards.
type Draw = fn(&mut Random, ShardIndex) -> Drawn;

/// The weight of each kind of fault in the draw.
const WEIGHTS: [(u64, Draw); 10] = [
    (5, kill_shard),
    (1, kill_all),
    (3, drain_shard),
    (5, freeze_shard),
    (3, mislead),
    (3, kill_coordinator),
    (3, freeze_coordinator),
    (5, reset),
    (6, cut),
    (7, worsen),
];

impl Drawn {
    /// The fault's name in the summary.
    pub(super) fn kind(&self) -> &'static str {
        let brief = self.lasts < LOST_AFTER;
        match &self.fault {
            Fault::KillShards(places) if places.len() > 1 => "SIGKILL of all shards",
            Fault::KillShards(_) => "SIGKILL of a shard",
            Fault::DrainShard(_) => "SIGTERM of a shard",
            Fault::FreezeShard(_) if brief => "SIGSTOP of a shard, brief",
            Fault::FreezeShard(_) => "SIGSTOP of a shard, past the limit",
            Fault::Mislead(_, fault) if fault.starts_with("wrong") => "wrong results",
            Fault::Mislead(_, fault) if fault.starts_with("corrupt") => "damaged results",
            Fault::Mislead(_, PANIC) => "panic of a worker",
            Fault::Mislead(..) => "slow worker",
            Fault::KillCoordinator => "SIGKILL of the coordinator",
            Fault::FreezeCoordinator if brief => "SIGSTOP of the coordinator, brief",
            Fault::FreezeCoordinator => "SIGSTOP of the coordinator, past the limit",
            Fault::Reset(_) => "connections reset",
            Fault::Worsen(_, [_, _, ..], shape) if shape.cut => "partition, both ways",
            Fault::Worsen(_, _, shape) if shape.cut => "partition, one way",
            Fault::Worsen(_, _, shape) if shape.bytes_per_second.is_some() => "bandwidth limit",
            Fault::Worsen(..) => "delay",
        }
    }

    /// The objects that the fault affects.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        match &self.fault {
            Fault::KillShards(places) => places.iter().copied().map(Subject::Shard).collect(),
            Fault::DrainShard(place) | Fault::FreezeShard(place) | Fault::Mislead(place, _) => {
                vec![Subject::Shard(*place)]
            }
            Fault::KillCoordinator | Fault::FreezeCoordinator => vec![Subject::Coordinator],
            Fault::Reset(link) | Fault::Worsen(link, ..) => vec![Subject::Link(*link)],
        }
    }

    /// Draws a fault for a fleet with this many shards.
    pub(super) fn draw(random: &mut Random, shards: ShardIndex) -> Self {
        let all: u64 = WEIGHTS.iter().map(|(weight, _)| weight).sum();
        let mut left = random.between(1, all);
        for (weight, draw) in WEIGHTS {
            if left <= weight {
                return draw(random, shards);
            }
            left -= weight;
        }
        reset(random, shards)
    }
}

fn lasting(random: &mut Random, fault: Fault, from: u64, to: u64) -> Drawn {
    Drawn { fault, lasts: Duration::from_millis(random.between(from, to)) }
}

fn place(random: &mut Random, shards: ShardIndex) -> ShardIndex {
    random.index(shards)
}

fn kill_shard(random: &mut Random, shards: ShardIndex) -> Drawn {
    let fault = Fault::KillShards(vec![place(random, shards)]);
    lasting(random, fault, 0, 2_500)
}

fn kill_all(random: &mut Random, shards: ShardIndex) -> Drawn {
    lasting(random, Fault::KillShards((0..shards).collect()), 0, 1_500)
}

fn drain_shard(random: &mut Random, shards: ShardIndex) -> Drawn {
    let fault = Fault::DrainShard(place(random, shards));
    lasting(random, fault, 0, 1_500)
}

/// Draws a freeze. Half of them are shorter than the silence limit, half are longer.
fn freeze_shard(random: &mut Random, shards: ShardIndex) -> Drawn {
    let fault = Fault::FreezeShard(place(random, shards));
    if random.one_in(2) { lasting(random, fault, 50, 800) } else { lasting(random, fault, 1_300, 3_500) }
}

fn mislead(random: &mut Random, shards: ShardIndex) -> Drawn {
    let wrong = random.one_of("wrong@3+", &["corrupt@2+", PANIC, "slow:80@1+"]);
    let fault = Fault::Mislead(place(random, shards), wrong);
    lasting(random, fault, 1_000, 3_000)
}

fn kill_coordinator(random: &mut Random, _: ShardIndex) -> Drawn {
    lasting(random, Fault::KillCoordinator, 0, 2_000)
}

fn freeze_coordinator(random: &mut Random, _: ShardIndex) -> Drawn {
    if random.one_in(2) {
        lasting(random, Fault::FreezeCoordinator, 50, 800)
    } else {
        lasting(random, Fault::FreezeCoordinator, 1_300, 3_000)
    }
}

/// Draws a link. The client's link is as likely as each of the others.
fn link(random: &mut Random, shards: ShardIndex) -> Link {
    let index = random.index(2 * shards + 1);
    match index % 2 {
        _ if index == 2 * shards => Link::Client,
        0 => Link::Up(index / 2),
        _ => Link::Down(index / 2),
    }
}

fn reset(random: &mut Random, shards: ShardIndex) -> Drawn {
    let fault = Fault::Reset(link(random, shards));
    lasting(random, fault, 0, 0)
}

/// Draws the affected directions: usually one, in one of `both_in` cases both.
fn ways(random: &mut Random, both_in: u32) -> &'static [Direction] {
    if random.one_in(both_in) {
        return &[Direction::ToTarget, Direction::ToClient];
    }
    if random.one_in(2) { &[Direction::ToTarget] } else { &[Direction::ToClient] }
}

/// Draws a cut. Some end before any process can have noticed them.
fn cut(random: &mut Random, shards: ShardIndex) -> Drawn {
    let shape = Shape { cut: true, ..Shape::default() };
    let fault = Fault::Worsen(link(random, shards), ways(random, 5), shape);
    if random.one_in(3) { lasting(random, fault, 50, 800) } else { lasting(random, fault, 1_300, 4_000) }
}

/// Draws a slow link: a delay of 100 to 500 ms, or a rate of 8 to 256 KiB per second.
fn worsen(random: &mut Random, shards: ShardIndex) -> Drawn {
    let shape = if random.one_in(2) {
        Shape { delay: Duration::from_millis(random.between(100, 500)), ..Shape::default() }
    } else {
        Shape { bytes_per_second: Some(random.between(8, 256) << 10), ..Shape::default() }
    };
    let fault = Fault::Worsen(link(random, shards), ways(random, 3), shape);
    lasting(random, fault, 1_000, 5_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_is_drawn_and_the_same_seed_draws_the_same() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..600).map(|_| Drawn::draw(&mut random, 3)).collect::<Vec<_>>()
        };
        let (first, second) = (draw(5), draw(5));
        assert_eq!(first, second);
        let kinds: BTreeSet<_> = first.iter().map(Drawn::kind).collect();
        assert_eq!(kinds.len(), 17, "{kinds:?}");
        let links: BTreeSet<_> = first
            .iter()
            .filter_map(|drawn| match drawn.fault {
                Fault::Reset(link) | Fault::Worsen(link, ..) => Some(link),
                _ => None,
            })
            .collect();
        assert_eq!(links.len(), 7, "{links:?}");
    }
}
