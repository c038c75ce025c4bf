//! Feature bits and flags of a BEGIN record (`DMU_BACKUP_FEATURE_*` and `DRR_FLAG_*` in `sys/zfs_ioctl.h`).

use std::fmt;

/// What a receiver must understand to take a stream: bits 2 and up of `drr_versioninfo`, shifted down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        impl Features {
            $($(#[$doc])* pub const $name: Features = Features(1 << $bit);)*

            const NAMES: &'static [(u64, &'static str)] = &[$((1 << $bit, $text),)*];
        }
    };
}

features! {
    /// Blocks may refer to earlier ones (`send -D`, gone since 2.0).
    DEDUP = 0, "dedup";
    /// As DEDUP, with the properties of the blocks.
    DEDUPPROPS = 1, "dedupprops";
    /// System attributes with spill blocks: any filesystem of version 5.
    SA_SPILL = 2, "sa_spill";
    /// WRITE_EMBEDDED records (`send -e`).
    EMBED = 16, "embed";
    /// Blocks may be compressed with lz4.
    LZ4 = 17, "lz4";
    /// Blocks above 128 KiB (`send -L`).
    LARGE_BLOCKS = 19, "large_blocks";
    /// Made from a resume token.
    RESUMING = 20, "resuming";
    /// A redacted send.
    REDACTED = 21, "redacted";
    /// Blocks are sent as they are compressed on disk (`send -c`).
    COMPRESSED = 22, "compressed";
    /// Dnodes above 512 bytes.
    LARGE_DNODE = 23, "large_dnode";
    /// Blocks are sent as they are encrypted on disk (`send -w`).
    RAW = 24, "raw";
    /// Blocks may be compressed with zstd.
    ZSTD = 25, "zstd";
    /// Carries holds (`send -h`).
    HOLDS = 26, "holds";
    /// May follow a stream that was made without LARGE_BLOCKS.
    SWITCH_TO_LARGE = 27, "switch_to_large";
    /// File names above 255 bytes.
    LONGNAME = 28, "longname";
    /// Microzaps above 128 KiB.
    LARGE_MICROZAP = 29, "large_microzap";
}

impl Features {
    /// No feature at all.
    pub const NONE: Features = Features(0);

    /// All that a transfer may have: everything known but DEDUP, which was removed from OpenZFS and makes
    /// the receiver read blocks that a stream names, and HOLDS, which only packages carry.
    pub const TRANSFER: Features = Features(
        Self::SA_SPILL.0
            | Self::EMBED.0
            | Self::LZ4.0
            | Self::LARGE_BLOCKS.0
            | Self::RESUMING.0
            | Self::REDACTED.0
            | Self::COMPRESSED.0
            | Self::LARGE_DNODE.0
            | Self::RAW.0
            | Self::ZSTD.0
            | Self::SWITCH_TO_LARGE.0
            | Self::LONGNAME.0
            | Self::LARGE_MICROZAP.0,
    );

    /// True when all of `other` is set.
    pub fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    pub fn with(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }

    /// These without those of `other`.
    pub fn without(self, other: Features) -> Features {
        Features(self.0 & !other.0)
    }

    /// Names in the order of the bits; a bit without a name is called `bit_N`.
    pub fn names(self) -> Vec<String> {
        (0..64).filter(|bit| self.0 >> bit & 1 == 1).map(|bit| name(Self::NAMES, bit)).collect()
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 { f.write_str("none") } else { f.write_str(&self.names().join(", ")) }
    }
}

const FLAG_NAMES: &[(u64, &str)] = &[(1, "clone"), (2, "ci_data"), (4, "free_records"), (8, "spill_block")];

/// The names of a BEGIN's `drr_flags`, in the order of the bits; a bit without a name is called `bit_N`.
pub fn begin_flag_names(flags: u32) -> Vec<String> {
    (0..32).filter(|bit| flags >> bit & 1 == 1).map(|bit| name(FLAG_NAMES, bit)).collect()
}

fn name(names: &[(u64, &str)], bit: u32) -> String {
    let known = names.iter().find(|(mask, _)| *mask == 1 << bit);
    known.map_or_else(|| format!("bit_{bit}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bits() {
        assert_eq!(Features(0x43_0004).to_string(), "sa_spill, embed, lz4, compressed");
        assert_eq!(Features(1 << 5).names(), ["bit_5"]);
        assert_eq!(begin_flag_names(0xc), ["free_records", "spill_block"]);
    }
}
