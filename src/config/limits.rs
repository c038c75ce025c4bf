//! `[limits]`: every bound that an operator may move, with its default and its range.
//!
//! Invariant: a [`Limits`] holds values within their ranges; the table [`LIMITS`] is what the parser, the
//! documentation and its test all read.

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitUnit {
    /// Things; written as an integer.
    Count,
    /// Whole seconds; written as an integer.
    Seconds,
    /// Bytes; written as an integer, or as text such as `"64M"`.
    Bytes,
}

/// One key of `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    /// The key.
    pub key: &'static str,
    /// Its value when it is not set.
    pub default: u64,
    /// The smallest value that is taken.
    pub min: u64,
    /// The largest value that is taken.
    pub max: u64,
    /// What it counts.
    pub unit: LimitUnit,
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $unit:ident = $default:expr, $min:expr => $max:expr;)*) => {
        /// The values of `[limits]`.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// The field that `key` names.
            pub(super) fn field(&mut self, key: &str) -> Option<&mut u64> {
                match key {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }

        /// All keys of `[limits]`.
        pub const LIMITS: &[LimitSpec] = &[
            $(LimitSpec {
                key: stringify!($name), default: $default, min: $min, max: $max, unit: LimitUnit::$unit,
            },)*
        ];
    };
}

const MIB: u64 = 1 << 20;

limits! {
    /// Connections that `zmigrated` keeps open at a time, those still shaking hands included.
    max_connections: Count = 256, 1 => 65_536;
    /// Sessions that one identity may have open at a time.
    max_sessions_per_identity: Count = 16, 1 => 4_096;
    /// Connections of one transfer (`--streams`).
    max_streams: Count = 8, 1 => 64;
    /// Datasets in one listing or plan. 10 000 listings of 200 snapshots are about 400 MB, so raise it with care.
    max_datasets: Count = 10_000, 1 => 1_000_000;
    /// From the TCP connection to the verified identity.
    handshake_timeout_s: Seconds = 10, 1 => 300;
    /// A peer that sends nothing, no heartbeat either, for so long is taken for gone, and is dialled again.
    idle_timeout_s: Seconds = 30, 5 => 3_600;
    /// A transfer waits so long for its link to come back before it gives up.
    link_lost_after_s: Seconds = 900, 10 => 86_400;
    /// Bytes in flight of one transfer, on each side. Not below what sessions need (`limits::MIN_WINDOW`).
    window_bytes: Bytes = 64 * MIB, 4 * MIB => 4_096 * MIB;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_in_its_range_and_has_its_field() {
        let mut limits = Limits::default();
        for spec in LIMITS {
            assert!((spec.min..=spec.max).contains(&spec.default), "{}", spec.key);
            assert_eq!(limits.field(spec.key).map(|v| *v), Some(spec.default), "{}", spec.key);
        }
        assert!(limits.link_lost_after_s >= limits.idle_timeout_s);
    }
}
