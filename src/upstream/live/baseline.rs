//! How long live requests take while no export searches, learnt for each kind of request: reading one Patient is quick
//! and searching all Observations is not, and a mean over both would tell of what is asked and not of the server.

use std::time::Duration;

use http::Method;

/// Requests that are told apart.
const KINDS: u8 = 64;
/// Answers until a kind is known.
const KNOWN: u16 = 3;
/// Answers until one that is far off has to be one of many to be believed.
const WELL_KNOWN: u16 = 8;
/// What the latest answer counts for, once a kind is well known.
const WEIGHT: f32 = 1.0 / 16.0;
/// What explains a longer answer by chance: so many usual deviations, and this part of the mean.
const DEVIATIONS: f32 = 2.0;
const UNSTEADY: f32 = 0.05;

/// A kind of request: method, resource type, and how deep below it; nothing of ids and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(u8);

impl Kind {
    pub(crate) fn of(method: &Method, path: &str, has_query: bool) -> Self {
        // Types and operations tell themselves by how they begin; the path before them is the same for all.
        let is_name = |part: &&str| part.starts_with(|first: char| first.is_ascii_uppercase() || "$_".contains(first));
        let mut parts = path.split('/').filter(|part| !part.is_empty()).skip_while(|part| !is_name(part));
        let name = parts.next().unwrap_or("");
        let deeper = parts.take(3).fold(0_u8, |depth, _| depth + 1);
        let bytes = method.as_str().bytes().chain(name.bytes()).chain([deeper, u8::from(has_query)]);
        // FNV-1a: two kinds that fall together only make a coarser mean.
        let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self(hash.to_be_bytes()[0] % KINDS)
    }
}

/// What is known of each kind.
#[derive(Debug)]
pub(super) struct Baselines {
    kinds: [Idle; KINDS as usize],
}

/// Seconds that one kind takes.
#[derive(Debug, Clone, Copy, Default)]
struct Idle {
    mean: f32,
    deviation: f32,
    seen: u16,
}

/// One answer against the baseline of its kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Slowness {
    /// How many times as long as without exports it took.
    pub(crate) times: f32,
    /// By how much it took longer than is allowed, in units of what chance explains: 1 is hardly chance any more, and
    /// below 0 there is nothing to complain about.
    pub(crate) excess: f32,
}

impl Default for Baselines {
    fn default() -> Self {
        Self { kinds: [Idle::default(); KINDS as usize] }
    }
}

impl Baselines {
    /// An answer while no export searched.
    pub(super) fn learn(&mut self, kind: Kind, latency: Duration) {
        let idle = &mut self.kinds[usize::from(kind.0)];
        let mut seconds = latency.as_secs_f32();
        if idle.seen >= WELL_KNOWN {
            // One request that hangs must not make all that follow look quick.
            seconds = seconds.min(idle.mean * (1.0 + 2.0 * UNSTEADY) + 2.0 * DEVIATIONS * idle.deviation);
        }
        idle.seen = idle.seen.saturating_add(1);
        let weight = WEIGHT.max(1.0 / f32::from(idle.seen));
        let off = (seconds - idle.mean).abs();
        idle.mean += weight * (seconds - idle.mean);
        if idle.seen > 1 {
            idle.deviation += weight.min(0.5) * (off - idle.deviation);
        }
    }

    /// How an answer compares; `None` as long as its kind is not known. `rise` is the part by which answers may take
    /// longer.
    pub(super) fn judge(&self, kind: Kind, latency: Duration, rise: f32) -> Option<Slowness> {
        let idle = &self.kinds[usize::from(kind.0)];
        if idle.seen < KNOWN {
            return None;
        }
        let (mean, seconds) = (idle.mean.max(1e-5), latency.as_secs_f32());
        let chance = DEVIATIONS * idle.deviation + UNSTEADY * mean;
        Some(Slowness { times: seconds / mean, excess: (seconds - mean * (1.0 + rise)) / chance })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn requests_are_told_apart_by_what_they_ask_and_not_by_whom() {
        let kind = |method, path, query| Kind::of(&method, path, query);
        let read = kind(Method::GET, "/fhir/Patient/123", false);
        for (other, same) in [
            (kind(Method::GET, "/fhir/Patient/Smith-4", false), true),
            (kind(Method::GET, "/r4/tenant/Patient/9", false), true),
            (kind(Method::GET, "/fhir/Patient", true), false),
            (kind(Method::PUT, "/fhir/Patient/123", false), false),
            (kind(Method::GET, "/fhir/DocumentReference/123", false), false),
            (kind(Method::GET, "/fhir/Patient/123/$everything", false), false),
        ] {
            assert_eq!(read == other, same, "{other:?}");
        }
        // Neither of these names a type, and both are counted all the same.
        assert_ne!(kind(Method::GET, "/fhir/metadata", false), kind(Method::POST, "/fhir", false));
    }

    #[test]
    fn what_is_longer_is_held_against_the_usual_spread() {
        let kind = Kind(7);
        for (name, idle, latency, expected) in [
            ("steady, the same", vec![20; 30], 20, Some(-2.0)),
            ("steady, within the rise", vec![20; 30], 22, Some(0.0)),
            ("steady, a quarter more", vec![20; 30], 25, Some(3.0)),
            ("uneven, a quarter more", [15, 25, 22, 18].repeat(8), 25, Some(0.4)),
            ("uneven, twice as long", [15, 25, 22, 18].repeat(8), 40, Some(2.3)),
            ("not known yet", vec![20; 2], 400, None),
        ] {
            let mut baselines = Baselines::default();
            for millis in idle {
                baselines.learn(kind, ms(millis));
            }
            let judged = baselines.judge(kind, ms(latency), 0.1);
            let is_near = judged.zip(expected).is_none_or(|(judged, expected)| (judged.excess - expected).abs() < 0.1);
            assert!(judged.is_some() == expected.is_some() && is_near, "{name}: {judged:?}");
            assert_eq!(baselines.judge(Kind(8), ms(latency), 0.1), None, "{name}: another kind");
        }
    }

    #[test]
    fn one_request_that_hangs_does_not_spoil_what_is_known_and_a_change_for_good_is_learnt() {
        let (kind, mut baselines) = (Kind(1), Baselines::default());
        (0..30).for_each(|_| baselines.learn(kind, ms(20)));
        baselines.learn(kind, ms(30_000));
        let judged = baselines.judge(kind, ms(40), 0.1).expect("a known kind");
        assert!(judged.excess > 1.0 && judged.times > 1.5, "{judged:?}");
        (0..200).for_each(|_| baselines.learn(kind, ms(60)));
        let judged = baselines.judge(kind, ms(63), 0.1).expect("a known kind");
        assert!(judged.excess < 0.0, "{judged:?}");
    }
}
