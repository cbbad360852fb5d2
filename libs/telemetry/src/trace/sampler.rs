use std::time::Instant;

use model::TraceContext;
use parking_lot::Mutex;

/// Which traces are recorded, as `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say it (OpenTelemetry, "General
/// SDK Configuration").
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Sampler {
    /// A client that has a trace decides.
    parent_based: bool,
    /// Share of the others, 0 to 1.
    ratio: f64,
}

/// A name of no sampler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio"
)]
pub struct SamplerError(String);

impl Sampler {
    /// The sampler of that name. `share`, 0 to 1, is the argument of the ratio samplers; others do not look at it.
    ///
    /// # Errors
    /// When there is no such sampler.
    pub fn new(name: &str, share: f64) -> Result<Self, SamplerError> {
        let (parent_based, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => share,
            _ => return Err(SamplerError(name.to_owned())),
        };
        Ok(Self { parent_based, ratio })
    }

    /// Whether that parent makes it record what it might not have otherwise.
    pub(super) fn hears(&self, parent: Option<&TraceContext>) -> bool {
        self.parent_based && parent.is_some_and(TraceContext::sampled)
    }

    /// `None`: not recorded. Else whether that holds whatever comes of it.
    pub(super) fn decide(&self, parent: Option<&TraceContext>, trace: [u8; 16]) -> Option<bool> {
        match parent.filter(|_| self.parent_based) {
            Some(parent) => parent.sampled().then_some(true),
            None => self.keeps(trace, 1.0).then_some(false),
        }
    }

    /// Whether a trace is among that share of those that are recorded. The id decides, so that a smaller share is part
    /// of a larger one, and everybody who samples by the id decides alike.
    pub(super) fn keeps(&self, trace: [u8; 16], share: f64) -> bool {
        let ratio = self.ratio * share.min(1.0);
        if ratio >= 1.0 {
            return true;
        }
        let [.., a, b, c, d, e, f, g, h] = trace;
        // 63 bits, as OpenTelemetry's own.
        let place = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
        (place as f64) < ratio * (1u64 << 63) as f64
    }
}

/// How many traces a second clients may ask for.
pub(super) struct Clients {
    per_second: f64,
    left: Mutex<(f64, Instant)>,
}

impl Clients {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.into(),
            left: Mutex::new((per_second.into(), Instant::now())),
        }
    }

    pub(super) fn may_ask(&self) -> bool {
        let mut left = self.left.lock();
        let now = Instant::now();
        let more = now.duration_since(left.1).as_secs_f64() * self.per_second;
        *left = ((left.0 + more).min(self.per_second), now);
        let may = left.0 >= 1.0;
        if may {
            left.0 -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let sampler = |name| Sampler::new(name, 0.25);
        assert_eq!(sampler("traceidratio").unwrap().ratio, 0.25);
        assert_eq!(sampler("parentbased_always_on").unwrap().ratio, 1.0);
        assert!(sampler("parentbased_always_off").unwrap().parent_based);
        assert!(sampler("sometimes").is_err());
    }

    #[test]
    fn the_id_decides_and_a_smaller_share_is_part_of_a_larger() {
        let sampler = Sampler::new("traceidratio", 0.5).unwrap();
        let ids: Vec<_> = (0..4000).map(|_| super::super::ids::random_trace()).collect();
        let kept = |share: f64| ids.iter().filter(|id| sampler.keeps(**id, share)).count();
        assert!((1800..2200).contains(&kept(1.0)), "{}", kept(1.0));
        assert!((120..290).contains(&kept(0.1)), "{}", kept(0.1));
        assert!(
            ids.iter()
                .all(|id| !sampler.keeps(*id, 0.1) || sampler.keeps(*id, 1.0))
        );
        let none = Sampler::new("always_off", 1.0).unwrap();
        assert!(ids.iter().all(|id| !none.keeps(*id, 1.0)));
    }
}
