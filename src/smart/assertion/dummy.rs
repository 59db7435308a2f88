//! Keys that nobody has the other half of: what is verified where a client has no key, so that it takes as long.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::smart::jws::{Kind, VerifyingKey};

/// A key of the kind and size that a signature of so many bytes would be by.
pub(super) fn of(kind: Kind, signature_bytes: usize) -> VerifyingKey {
    match kind {
        // No client has one on P-256.
        Kind::P256 | Kind::P384 => VerifyingKey::p384(&coordinate(X), &coordinate(Y)),
        Kind::Rsa => {
            let modulus = match signature_bytes {
                ..=320 => RSA_2048,
                321..=448 => RSA_3072,
                449.. => RSA_4096,
            };
            VerifyingKey::rsa(&URL_SAFE_NO_PAD.decode(modulus).unwrap_or_default(), &[1, 0, 1])
        }
    }
}

fn coordinate(text: &str) -> [u8; 48] {
    let mut bytes = [0; 48];
    let _written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes);
    bytes
}

const X: &str = "T3VHttu529bCNhXMGm7e6Y6AtongILRjp3WxZJqUpnPNBPi-8Ow8OAXaSty8prfM";
const Y: &str = "pq1XWvFKHn6Hy3XKmT62rT3j9BuD9zhJ1X2UpsZkMbRrDfVJlmKuyMwy7cKB_UfW";

const RSA_2048: &str = "xFmXXfolwNaxwPBiTzm5K_-1wuXZTIb1UQl-nB03HxdZdg_h2t7_kZYZsBB0AAWx8tB2voxIm7WimmDn21gyKfi-H1UPgVEkr519oMaMVZUrElcFh811BqEcPMoMrX4_fmdp3N2sz6JK4RhLcw4k6IW75f8tycdIH46bJ0qeeivfhlwitjFqz8JcOyFfLtfHlss2qfkXMHvg2SAKQg_SLU_yAkmZfQWPEQwrI1Ud-TTp46qhzGxiRVrmhOzKo5Pn07zyoADuXGBfwJKNt6WUT2yEkyiGXW2B9hUER-CYF2pPJHFm9rOYJFopDlaNDRn7EdwkPI_pUFsXvTnqqXqKPw";
const RSA_3072: &str = "sIYOQhk2rTvt5-8CVt_8r9MvFoV3s0lzJTEfFuf0Rdc--adqPKTgGKXJjE12yOGrPsmTdBwu3ISEdBZ9g5T_5y31wzvgbIB-K2KuEjorGj7Pc9PFZuEICWZ4n9VbXlnPZIRzyKRMdz0_cHDMDYpIGQtKksdzy_LLkSCiLDBBX19Zt1-WmJPF-BOsNULc0mOfAvLuFc_FqQuO8mahisM3TkaqmjKoz5aGaveq58iZzrtdiqV8_9P0Ub74Bilm3yycuGcnbiyjX6m_AdJQLzXGRCq4wdD683ljIFK1b28YLF9ouvezTvhe9nWn8flCs69Uab9yWqTRSyBKqns3gPvmkjvmL9Myeio3iAVon9BIL1BoX6Qzvx_eevP8ERPZwq68MuDIMS6xyej4Yzrfp6Lmx1pafFwY3pHEjI9HqrMFm7iyPoQuYl_R6M3TOcydrezUydwIGG2DT7qwsbvLJVVuoc47xi-cvAtZl8UK2LAVcgS_SGdyeSS0L0UzOMaAK6G7";
const RSA_4096: &str = "olZ9jU2bUUj11LyN49zQmfjJrQjCcddy9dH2A9y0OlXAX8ADV-uEhqlhHg9MMysWN5lUYGBoGWgtC1xeqjsknM5pFebuj3eKJsHUUZZGsYATABDRFte1-K4or4YsdlfpbwFCNagt-A_ygsj_xV-FOxOQymXKiWsPy5GYu4a55ZkSrbuj-SOIpXYrAIS_hRCEgfkdECLTzWbsSiOBEmf8_ffeU-LLsFB8l5zxokuvBsk71mTlhJHnalm-muNAQsBbYrj_imh32GXNpo78OTiDfvZMaJ-VYkjeCWgrH9adYesYqv-iTg8ugfjkOfk1acgWfqXjqEqljgyVxwUCNui9hbQnEp4kET91s0zzjR9yeKXJoMH1L4UAXmUtwn2sgOl5pajSHd38uHHoNmbiHCAgT-3fYfcsHhTBFp0wVH6lyOB4zGUm4gUKUyMfJ-Yuidsq4T2zwvqfU_gxqWKReiYjKMsumgET6tPfnUcWIWieY87Tnxy9HyeGtOYZqolet56WYQ0fslc9ycw6WAb_20Bm5FErjPsFwXxBMV2DMyr76zfZtJbRGe2UUoQRv4SPPCr0qT20yQ48OibfwGZDPyMb7QaOj221ZX0X3VK64Xg-v47RpfUbDTeoYR2BXjptHGGSvj6sPfQbmVYOJkNR1TNrA2d6y8KLtbNOdVXykQj0pt0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_key_of_every_size_that_a_client_may_have() {
        for bytes in [256, 384, 512] {
            assert!(of(Kind::Rsa, bytes).makes(bytes), "{bytes}");
        }
        assert!(of(Kind::P384, 96).makes(96));
    }
}
