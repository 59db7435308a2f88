//! What the configuration says about sparing the upstream, as the gate takes it.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{QuietWindowConfig, UpstreamConfig, UtcOffset};
use crate::upstream::gate::{Gate, QuietHours, Zone};
use crate::upstream::limit::LimitSettings;
use crate::upstream::limit::breaker::BreakerSettings;
use crate::upstream::limit::quiet::QuietWindow;
use crate::upstream::limit::yielding::YieldSettings;
use crate::upstream::live::LiveTraffic;

pub(super) fn gate(config: &UpstreamConfig, live: Arc<LiveTraffic>, clock: Arc<dyn Clock>) -> Gate {
    let yields = &config.yield_to_live_traffic;
    let yielding = yields.enabled.then(|| YieldSettings {
        ceiling: config.max_concurrent_searches,
        headroom: f64::from(yields.headroom_percent) / 100.0,
        least: yields.min_concurrent_searches,
        memory: yields.memory,
    });
    let breaker = &config.circuit_breaker;
    let breaker =
        BreakerSettings { failures: breaker.failures, pause: breaker.pause, longest_pause: breaker.max_pause };
    let settings = LimitSettings {
        ceiling: config.max_concurrent_searches,
        per_second: config.max_searches_per_second,
        breaker,
        yielding,
    };
    let zone = match config.quiet_hours.utc_offset {
        UtcOffset::Local => Zone::Local,
        UtcOffset::Fixed(seconds) => Zone::Fixed(seconds),
    };
    let windows = config.quiet_hours.windows.iter().map(window).collect();
    Gate::new(&settings, QuietHours { zone, windows }, live, clock)
}

fn window(config: &QuietWindowConfig) -> QuietWindow {
    let mut days = [false; 7];
    config.days.iter().for_each(|day| days[*day as usize] = true);
    QuietWindow {
        days,
        from: config.from.minutes,
        until: config.until.minutes,
        searches: config.max_concurrent_searches,
    }
}
