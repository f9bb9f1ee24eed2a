//! Protection of packets: AES-256-GCM over the plaintext, one AES-256 block over the header (SPEC.md, "Data
//! packets").
//!
//! Keys arrive raw and are expanded for each use: a device's record then holds 32 bytes instead of several hundred, and
//! the expansion costs less than fetching the rest from memory.

use core::ops::Range;

use aes::cipher::consts::U12;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256Dec, Aes256Enc};
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AesGcm, Tag};

/// Bytes of the header block.
pub(crate) const HEADER_LEN: usize = 16;
/// Bytes of an authentication tag.
pub(crate) const TAG_LEN: usize = 16;

/// The longest stream identifier: 16 bytes from a service, 8 from a device.
const MAX_IDENT: usize = 16;

/// GCM needs AES in its encrypting direction only, whose key expansion is the cheaper one.
type Gcm = AesGcm<Aes256Enc, U12>;

/// The authentication failed: wrong key, changed bytes, or never a packet of this protocol. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unauthentic;

/// The keys of one direction, borrowed from wherever the connection keeps them.
#[derive(Clone, Copy)]
pub(crate) struct PacketKeys<'a> {
    /// The direction's AEAD key.
    pub(crate) key: &'a [u8; 32],
    /// The direction's initial vector.
    pub(crate) iv: &'a [u8; 12],
    /// The connection's header key.
    pub(crate) header: &'a [u8; 32],
}

/// Seals `packet` in place: stream identifier (`ident_len` bytes), 16 bytes of room for `header`, plaintext, 16 bytes
/// of room for the tag. `nonce_input` must never have been used with these keys before.
///
/// # Panics
/// If `packet` has less than `ident_len + 32` bytes.
pub(crate) fn seal_packet(
    keys: &PacketKeys<'_>,
    packet: &mut [u8],
    ident_len: usize,
    header: [u8; HEADER_LEN],
    nonce_input: [u8; 12],
) {
    let (front, sealed) = packet.split_at_mut(ident_len + HEADER_LEN);
    front[ident_len..].copy_from_slice(&header);
    seal(keys.key, &xor(keys.iv, nonce_input), front, sealed);
    let mut block = header.into();
    Aes256Enc::new(keys.header.into()).encrypt_block(&mut block);
    front[ident_len..].copy_from_slice(&block);
}

/// The clear form of an encrypted header. Not yet authentic: nothing but the nonce may be taken from it before
/// [`open_packet`] has succeeded.
pub(crate) fn open_header(header_key: &[u8; 32], encrypted: &[u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    let mut block = (*encrypted).into();
    Aes256Dec::new(header_key.into()).decrypt_block(&mut block);
    block.into()
}

/// Opens `packet` in place and says where its plaintext lies.
///
/// # Errors
/// [`Unauthentic`], also if the packet is too short to be one; its bytes are then as they were.
pub(crate) fn open_packet(
    key: &[u8; 32],
    iv: &[u8; 12],
    packet: &mut [u8],
    ident_len: usize,
    clear_header: &[u8; HEADER_LEN],
    nonce_input: [u8; 12],
) -> Result<Range<usize>, Unauthentic> {
    if ident_len > MAX_IDENT || packet.len() < ident_len + HEADER_LEN + TAG_LEN {
        return Err(Unauthentic);
    }
    let start = ident_len + HEADER_LEN;
    let end = packet.len() - TAG_LEN;
    let (front, sealed) = packet.split_at_mut(start);
    // The header is authenticated in its clear form, which is put together beside the packet: were it written into
    // the packet, a failure would have to put it back.
    let mut aad = [0; MAX_IDENT + HEADER_LEN];
    aad[..ident_len].copy_from_slice(&front[..ident_len]);
    aad[ident_len..start].copy_from_slice(clear_header);
    open(key, &xor(iv, nonce_input), &aad[..start], sealed)?;
    Ok(start..end)
}

/// AES-256-GCM in place over plaintext and 16 bytes of room for the tag.
///
/// # Panics
/// If there is no room for a tag.
pub(super) fn seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8]) {
    let (text, tag) = buffer.split_at_mut(buffer.len() - TAG_LEN);
    let made = Gcm::new(key.into())
        .encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(text))
        .expect("no buffer is near GCM's limit of 64 GiB");
    tag.copy_from_slice(&made);
}

/// The reverse of [`seal`]; the tag stays behind the plaintext.
pub(super) fn open<'b>(
    key: &[u8; 32],
    nonce: &[u8; 12],
    aad: &[u8],
    buffer: &'b mut [u8],
) -> Result<&'b mut [u8], Unauthentic> {
    let end = buffer.len().checked_sub(TAG_LEN).ok_or(Unauthentic)?;
    let (text, tag) = buffer.split_at_mut(end);
    let tag = <&Tag>::try_from(&*tag).map_err(|_| Unauthentic)?;
    // The library compares the tag in constant time before it decrypts; the tests below hold it to that.
    Gcm::new(key.into())
        .decrypt_inout_detached(nonce.into(), aad, InOutBuf::from(&mut *text), tag)
        .map_err(|_| Unauthentic)?;
    Ok(text)
}

fn xor(iv: &[u8; 12], input: [u8; 12]) -> [u8; 12] {
    core::array::from_fn(|i| iv[i] ^ input[i])
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::super::testing::hex;
    use super::*;

    const KEYS: PacketKeys<'static> = PacketKeys { key: &[1; 32], iv: &[2; 12], header: &[3; 32] };
    const HEADER: [u8; 16] = [0, 0, 0, 0, 0, 9, 1, 2, 1, 3, 0, 0, 0, 0, 0, 0];
    const NONCE: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1, 3];

    fn sealed(ident: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut packet = ident.to_vec();
        packet.extend([0; 16]);
        packet.extend(plain);
        packet.extend([0; 16]);
        seal_packet(&KEYS, &mut packet, ident.len(), HEADER, NONCE);
        packet
    }

    /// As a receiver does it: the header first, then the packet with it.
    fn opened(packet: &mut [u8], ident_len: usize) -> Result<Vec<u8>, Unauthentic> {
        let block = packet.get(ident_len..ident_len + 16).ok_or(Unauthentic)?.try_into().unwrap();
        let header = open_header(KEYS.header, &block);
        open_packet(KEYS.key, KEYS.iv, packet, ident_len, &header, NONCE).map(|at| packet[at].to_vec())
    }

    /// Test case 16 of the GCM specification (McGrew and Viega), which has associated data.
    #[test]
    fn gcm_of_its_specification() {
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let nonce = hex("cafebabefacedbaddecaf888");
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let mut buffer = hex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        buffer.extend([0; 16]);
        seal(key[..].try_into().unwrap(), nonce[..].try_into().unwrap(), &aad, &mut buffer);
        let expected = hex(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
        );
        assert_eq!(buffer, expected);
    }

    /// FIPS 197, C.3.
    #[test]
    fn header_block_of_fips_197() {
        let key: [u8; 32] = core::array::from_fn(|i| i as u8);
        let block = hex("8ea2b7ca516745bfeafc49904b496089");
        assert_eq!(
            open_header(&key, block[..].try_into().unwrap()),
            hex("00112233445566778899aabbccddeeff")[..]
        );
    }

    #[test]
    fn all_but_the_identifier_is_covered() {
        let packet = sealed(&[7; 16], b"\xff\x00");
        assert_eq!(packet.len(), 50);
        assert_eq!(packet[..16], [7; 16]);
        assert_ne!(packet[16..32], HEADER);
        assert_eq!(opened(&mut packet.clone(), 16).unwrap(), b"\xff\x00");
    }

    // SPEC: R-authentic, R-after-aead
    #[test]
    fn one_wrong_bit_or_byte_less_opens_nothing_and_changes_nothing() {
        for ident in [&[7; 16][..], &[7; 8][..]] {
            let packet = sealed(ident, b"an authentic message");
            for bit in 0..packet.len() * 8 {
                let mut bad = packet.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let before = bad.clone();
                assert_eq!(opened(&mut bad, ident.len()), Err(Unauthentic), "bit {bit}");
                assert_eq!(bad, before, "bit {bit}");
            }
            for len in 0..packet.len() {
                let mut bad = packet[..len].to_vec();
                assert_eq!(opened(&mut bad, ident.len()), Err(Unauthentic), "cut to {len}");
                assert_eq!(bad, packet[..len], "cut to {len}");
            }
        }
    }

    #[test]
    fn the_nonce_input_matters() {
        let packet = sealed(&[7; 16], b"text");
        for i in 0..12 {
            let mut nonce = NONCE;
            nonce[i] ^= 1;
            let mut copy = packet.clone();
            let refused = open_packet(KEYS.key, KEYS.iv, &mut copy, 16, &HEADER, nonce);
            assert_eq!(refused, Err(Unauthentic));
            assert_eq!(copy, packet);
        }
    }

    #[test]
    fn an_impossible_identifier_length_is_refused() {
        let mut packet = vec![0; 100];
        let refused = open_packet(KEYS.key, KEYS.iv, &mut packet, 17, &HEADER, NONCE);
        assert_eq!(refused, Err(Unauthentic));
    }

    proptest! {
        #[test]
        fn round_trip(plain in proptest::collection::vec(any::<u8>(), 0..1200), long in any::<bool>()) {
            let ident = if long { &[9; 16][..] } else { &[9; 8][..] };
            let mut packet = sealed(ident, &plain);
            prop_assert_eq!(opened(&mut packet, ident.len()), Ok(plain));
        }

        #[test]
        fn arbitrary_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut copy = bytes.clone();
            prop_assert_eq!(opened(&mut copy, 16), Err(Unauthentic));
            prop_assert_eq!(copy, bytes);
        }
    }
}
