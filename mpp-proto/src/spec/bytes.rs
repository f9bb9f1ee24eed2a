//! Cryptography as SPEC.md writes it down, from the primitives and apart from the crate's own, and bytes as text.

use std::fmt::Write;
use std::string::String;
use std::vec::Vec;

use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes_gcm::Aes256Gcm;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

pub(super) fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    Sha256::digest(parts.concat()).to_vec()
}

pub(super) fn hmac_16(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).unwrap();
    mac.update(&parts.concat());
    mac.finalize().into_bytes()[..16].to_vec()
}

pub(super) fn extract(salt: &[u8], ikm: &[&[u8]]) -> Vec<u8> {
    Hkdf::<Sha256>::extract(Some(salt), &ikm.concat()).0.to_vec()
}

pub(super) fn expand(prk: &[u8], info: &[&[u8]], len: usize) -> Vec<u8> {
    let mut out = std::vec![0; len];
    Hkdf::<Sha256>::from_prk(prk).unwrap().expand(&info.concat(), &mut out).unwrap();
    out
}

/// `key_iv` is the key of 32 bytes and the nonce of 12 behind it; the tag is behind the ciphertext.
pub(super) fn gcm(key_iv: &[u8], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let (key, nonce) = key_iv.split_at(32);
    let cipher = Aes256Gcm::new_from_slice(key).unwrap();
    let mut text = plain.to_vec();
    let nonce: [u8; 12] = nonce.try_into().unwrap();
    let tag = cipher.encrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(&mut text[..])).unwrap();
    text.extend_from_slice(&tag);
    text
}

pub(super) fn aes_block(key: &[u8], block: &[u8]) -> Vec<u8> {
    let block: [u8; 16] = block.try_into().unwrap();
    let mut block = block.into();
    Aes256::new_from_slice(key).unwrap().encrypt_block(&mut block);
    block.to_vec()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// A page of examples.
pub(super) struct Page(pub(super) String);

impl Page {
    pub(super) fn heading(&mut self, text: &str) {
        let _ = write!(self.0, "### {text}\n\n");
    }

    pub(super) fn text(&mut self, text: &str) {
        let _ = write!(self.0, "{text}\n\n");
    }

    /// A block of named values, the names in a column, long values broken after 40 bytes.
    pub(super) fn values(&mut self, values: &[(&str, &[u8])]) {
        self.0.push_str("```\n");
        for (name, bytes) in values {
            self.value(name, bytes);
        }
        self.0.push_str("```\n\n");
    }

    fn value(&mut self, name: &str, bytes: &[u8]) {
        if bytes.is_empty() {
            let _ = writeln!(self.0, "{name:24} (empty)");
        }
        let lines = bytes.len().div_ceil(40);
        for (i, line) in bytes.chunks(40).enumerate() {
            let name = if i == 0 { name } else { "" };
            let size = if i + 1 == lines && bytes.len() > 8 {
                std::format!(" {{{}}}", bytes.len())
            } else {
                String::new()
            };
            let _ = writeln!(self.0, "{name:24} {}{size}", hex(line));
        }
    }

    /// A message: all of it, then each field with its name.
    pub(super) fn message(&mut self, name: &str, bytes: &[u8]) {
        self.0.push_str("```\n");
        if bytes.len() > 400 {
            let _ = writeln!(self.0, "{name:24} {{{}}} as follows", bytes.len());
        } else {
            self.value(name, bytes);
        }
        let _ = writeln!(self.0, "  {:22} type", hex(&bytes[..1]));
        self.items(&bytes[1..], field);
        self.0.push_str("```\n\n");
    }

    /// The items of an extension list, each on a line with its name.
    pub(super) fn items(&mut self, mut rest: &[u8], name: impl Fn(u8) -> &'static str) {
        while rest[0] != 255 {
            let (length, head) = match rest[1] >> 6 {
                0 => (usize::from(rest[1]), 2),
                _ => (usize::from(u16::from_be_bytes([rest[1], rest[2]]) & 0x3fff), 3),
            };
            let value = &rest[head..head + length];
            let shown = match value.len() {
                0..=64 => hex(value),
                n => std::format!("{}...{} {{{n}}}", hex(&value[..24]), hex(&value[n - 4..])),
            };
            let line = std::format!("{} {shown}", hex(&rest[..head]));
            let _ = writeln!(self.0, "  {line:22} {} {}", rest[0], name(rest[0]));
            rest = &rest[head + length..];
        }
        let _ = writeln!(self.0, "  {:22} end", "ff");
    }

    pub(super) fn clear_list(&mut self, list: &[u8]) {
        self.0.push_str("```\n");
        self.items(list, |tag| match tag {
            128 => "version",
            129 => "token",
            130 => "random",
            131 => "handshake identifier",
            132 => "share",
            133 => "challenge",
            134 => "web",
            135 => "code",
            136 => "retry after",
            _ => panic!("tag {tag} of a clear list has no name here"),
        });
        self.0.push_str("```\n\n");
    }
}

fn field(tag: u8) -> &'static str {
    match tag {
        128 => "request id",
        129 => "position",
        130 => "epoch",
        131 => "filter",
        132 => "covered",
        133 => "connect serial",
        134 => "packet size",
        135 => "interval",
        136 => "high-water mark",
        137 => "newest",
        138 => "endpoint",
        139 => "service time",
        140 => "lost",
        141 => "lease",
        142 => "refresh after",
        143 => "stores",
        144 => "up to",
        145 => "told",
        146 => "changed",
        147 => "event",
        148 => "unheard",
        149 => "store",
        150 => "payload",
        151 => "time to live",
        152 => "urgency",
        153 => "collapse key",
        154 => "post id",
        155 => "serial",
        156 => "code",
        157 => "retry after",
        158 => "detail",
        159 => "identifiers",
        160 => "account",
        161 => "token",
        162 => "secret",
        163 => "expiry",
        164 => "renew",
        165 => "silence",
        166 => "echo",
        _ => panic!("field {tag} has no name here"),
    }
}
