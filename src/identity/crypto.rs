//! Which cryptography TLS uses: signatures and key exchange always from aws-lc-rs, bulk ciphers from what is fastest here.
//!
//! Invariant: the suites are TLS 1.3's own three, whatever their order and origin.

use rustls::{
    SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs, ring},
};

/// What this processor does well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Processor {
    /// AES a block at a time, or four with AVX-512: what aws-lc is written for.
    Aes,
    /// AES two blocks at a time (VAES) without AVX-512: Zen 3, Alder Lake. ring has code for these, aws-lc not yet;
    /// on a Zen 3 core it sealed 5.8 GB/s of AES-128-GCM, and aws-lc 3.2.
    WideAes,
    /// No AES: ChaCha20 is faster, and takes the same time for all keys.
    Plain,
}

fn processor() -> Processor {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let aes = has!("aes") && has!("pclmulqdq");
        let wide = has!("vaes") && has!("vpclmulqdq") && has!("avx2") && !has!("avx512f");
        match (aes, wide) {
            (false, _) => Processor::Plain,
            (true, true) => Processor::WideAes,
            (true, false) => Processor::Aes,
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        if std::arch::is_aarch64_feature_detected!("aes") { Processor::Aes } else { Processor::Plain }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        Processor::Plain
    }
}

/// The suites, the preferred one first. AES-128 before AES-256: it is a quarter faster and its margin is ample.
fn suites(processor: Processor) -> Vec<SupportedCipherSuite> {
    use aws_lc_rs::cipher_suite as aws;
    match processor {
        Processor::Aes => {
            vec![aws::TLS13_AES_128_GCM_SHA256, aws::TLS13_AES_256_GCM_SHA384, aws::TLS13_CHACHA20_POLY1305_SHA256]
        }
        Processor::WideAes => vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        Processor::Plain => {
            vec![aws::TLS13_CHACHA20_POLY1305_SHA256, aws::TLS13_AES_128_GCM_SHA256, aws::TLS13_AES_256_GCM_SHA384]
        }
    }
}

/// The provider for both sides of a connection.
pub fn provider() -> CryptoProvider {
    CryptoProvider { cipher_suites: suites(processor()), ..aws_lc_rs::default_provider() }
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::*;

    #[test]
    fn every_processor_has_the_three_suites_in_its_order() {
        use CipherSuite as S;
        let names = |processor| -> Vec<CipherSuite> { suites(processor).iter().map(|suite| suite.suite()).collect() };
        let with_aes = [S::TLS13_AES_128_GCM_SHA256, S::TLS13_AES_256_GCM_SHA384, S::TLS13_CHACHA20_POLY1305_SHA256];
        assert_eq!(names(Processor::Aes), with_aes);
        assert_eq!(names(Processor::WideAes), with_aes);
        assert_eq!(names(Processor::Plain)[0], S::TLS13_CHACHA20_POLY1305_SHA256);
        assert_eq!(names(Processor::Plain).len(), 3);
    }
}
