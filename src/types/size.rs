//! Amounts of bytes, as people write and read them.

use std::{fmt, str::FromStr};

use super::NameError;

/// A number of bytes, written as ZFS users do: `4096`, `100M`, `1.5G`. The units are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const UNITS: [&str; 7] = ["B", "K", "M", "G", "T", "P", "E"];

impl FromStr for ByteSize {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        let bad = || NameError::new("size", s, "is not a number of bytes such as 4096, 100M or 1.5G");
        let digits = s.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = s[digits.len()..].to_ascii_uppercase();
        let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
        let power = if unit.is_empty() { 0 } else { UNITS.iter().position(|u| *u == unit).ok_or_else(bad)? };
        let factor = 1u64 << (10 * power);
        if let Ok(whole) = digits.parse::<u64>() {
            return whole.checked_mul(factor).map(ByteSize).ok_or_else(bad);
        }
        let number: f64 = digits.parse().map_err(|_| bad())?;
        let bytes = number * factor as f64;
        if digits.contains(['e', 'E', '-', '+']) || !bytes.is_finite() || bytes < 0.0 || bytes >= u64::MAX as f64 {
            return Err(bad());
        }
        Ok(ByteSize(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&human_bytes(self.0))
    }
}

/// `1536` as `1.50 KiB`.
pub fn human_bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10) as usize;
    let value = bytes as f64 / (1u64 << (10 * power)) as f64;
    let digits = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}iB", UNITS[power])
}

/// Bytes per second as `1.50 MiB/s`.
pub fn human_rate(bytes_per_s: u64) -> String {
    format!("{}/s", human_bytes(bytes_per_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("100M", 100 << 20), ("1.5G", 3 << 29), ("2KiB", 2048), ("7b", 7)]
        {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for bad in ["", "M", "-1", "1e3", "1X", "99999999999E", "nan", "inf", "1 M"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?} was taken");
        }
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.50 KiB");
        assert_eq!(human_bytes(u64::MAX), "16.0 EiB");
    }
}
