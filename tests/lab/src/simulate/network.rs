//! The network between shards and coordinator: what a message meets on its way.

use std::time::Duration;

use super::random::Random;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    FromShard,
    ToShard,
}

/// One shard's line.
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

/// What the whole network suffers from, and until when.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) drops_until: Duration,
    pub(super) delays_until: Duration,
    pub(super) duplicates_until: Duration,
    pub(super) reorders_until: Duration,
}

/// When the copies of a message arrive after `now`: none if it is lost.
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
