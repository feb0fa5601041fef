//! The network between shards and coordinator: it delays, drops, duplicates and reorders messages.

use std::time::Duration;

use super::random::Random;

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    FromShard,
    ToShard,
}

/// One shard's connection to the network.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) cut_from_until: Duration,
    pub(super) cut_to_until: Duration,
}

impl Line {
    pub(super) fn is_cut(&self, way: Way, now: Duration) -> bool {
        now < match way {
            Way::FromShard => self.cut_from_until,
            Way::ToShard => self.cut_to_until,
        }
    }
}

/// The faults of the whole network, and until when they last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) drops_until: Duration,
    pub(super) delays_until: Duration,
    pub(super) duplicates_until: Duration,
    pub(super) reorders_until: Duration,
}

/// The arrival times of the copies of a message sent at `now`; none if it is lost.
pub(super) fn arrivals(
    random: &mut Random,
    weather: &Weather,
    line: &Line,
    way: Way,
    now: Duration,
) -> [Option<Duration>; 2] {
    if line.is_cut(way, now) || (now < weather.drops_until && random.one_in(4)) {
        return [None, None];
    }
    let mut micros = random.between(100, 1_500);
    if now < weather.delays_until {
        micros += random.between(5_000, 120_000);
    }
    if now < weather.reorders_until {
        micros += random.between(0, 40_000);
    }
    let second = (now < weather.duplicates_until && random.one_in(3))
        .then(|| now + Duration::from_micros(micros + random.between(10, 60_000)));
    [Some(now + Duration::from_micros(micros)), second]
}
