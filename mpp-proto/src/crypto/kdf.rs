//! HKDF with SHA-256 (RFC 5869), in its two halves.

use hkdf::{Hkdf, HkdfExtract};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// HKDF-Extract over the concatenation of `ikm`.
pub(super) fn extract(salt: &[u8], ikm: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut extract = HkdfExtract::<Sha256>::new(Some(salt));
    for part in ikm {
        extract.input_ikm(part);
    }
    let (mut prk, _) = extract.finalize();
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(&prk);
    prk.as_mut_slice().zeroize();
    out
}

/// HKDF-Expand of `prk` with the concatenation of `info`: `N` bytes, at most 8160.
pub(super) fn expand<const N: usize>(prk: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "HKDF-Expand ends there (RFC 5869, 2.3)") };
    let hkdf = Hkdf::<Sha256>::from_prk(prk).expect("32 bytes are a key of SHA-256's size");
    let mut out = Zeroizing::new([0; N]);
    hkdf.expand_multi_info(info, out.as_mut_slice()).expect("the length was checked at compile time");
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::hex;
    use super::*;

    /// RFC 5869, A.1 and A.3: with the input cut into parts at every place, the output is the same.
    #[test]
    fn hkdf_of_rfc_5869() {
        let ikm = [0x0b; 22];
        let salt: [u8; 13] = core::array::from_fn(|i| i as u8);
        let info: [u8; 10] = core::array::from_fn(|i| 0xf0 + i as u8);
        let prk_1 = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let okm_1 =
            hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
        for cut in 0..=ikm.len() {
            let prk = extract(&salt, &[&ikm[..cut], &ikm[cut..]]);
            assert_eq!(prk[..], prk_1[..]);
        }
        let prk = extract(&salt, &[&ikm]);
        for cut in 0..=info.len() {
            assert_eq!(expand::<42>(&prk, &[&info[..cut], &info[cut..]])[..], okm_1[..]);
        }

        let okm_3 =
            hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
        assert_eq!(expand::<42>(&extract(&[], &[&ikm]), &[])[..], okm_3[..]);
    }
}
