//! Text for people: durations, dates, sizes, and what strangers wrote made harmless.

use std::fmt::Write as _;
use std::time::Duration;

use mpp_tokio::proto::UnixTime;

/// `text` with everything replaced that could move a cursor, clear a screen, hide or reorder what stands there, or
/// begin another line. What others post must not drive the terminal of the one who reads it.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Control characters, line and paragraph separators, and the marks that override or isolate direction.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A payload on one line: its text if it is text, else its size and first bytes. `limit` shortens the text to that
/// many characters.
pub(crate) fn payload(bytes: &[u8], limit: Option<usize>) -> String {
    let Ok(text) = std::str::from_utf8(bytes) else {
        let shown = bytes.len().min(16);
        let dots = if shown < bytes.len() { ".." } else { "" };
        return format!("{} bytes: {}{dots}", grouped(bytes.len() as u64), hex(&bytes[..shown]));
    };
    match limit.and_then(|limit| text.char_indices().nth(limit)) {
        Some((end, _)) => {
            format!("{}.. ({} bytes, --json shows all)", printable(&text[..end]), grouped(bytes.len() as u64))
        }
        None => printable(text),
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        let _ = write!(out, "{b:02x}");
    }
    out
}

/// The bytes of `text`, if it is hexadecimal of even length.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(text.len() / 2);
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    for pair in pairs {
        out.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(out)
}

/// `16384` as `16,384`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A duration such as `90d`, `1h30m`, `45s`, `250ms` or `0`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{}' is no duration: write it like 90d, 12h, 30m, 45s or 250ms", printable(text));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return Err(wrong()),
        };
        rest = &rest[letters..];
        millis = number.checked_mul(unit).and_then(|n| millis.checked_add(n)).ok_or_else(wrong)?;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(millis)) }
}

/// A duration to read: `1.3 ms`, `240 ms`, `4.2 s`, `216 s`, `15 min`. Times of heartbeats and silences stay seconds, as
/// they stand beside such.
pub(crate) fn duration(d: Duration) -> String {
    let us = d.as_micros();
    match us {
        0..10_000 => format!("{:.1} ms", d.as_secs_f64() * 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1000),
        1_000_000..120_000_000 => format!("{:.1} s", d.as_secs_f64()),
        120_000_000..600_000_000 => format!("{} s", d.as_secs()),
        600_000_000..7_200_000_000 => format!("{} min", d.as_secs() / 60),
        7_200_000_000..172_800_000_000 => format!("{} h", d.as_secs() / 3600),
        _ => format!("{} days", d.as_secs() / 86_400),
    }
}

/// Civil time: year, month, day, and seconds of the day, UTC.
fn civil(t: UnixTime) -> (i64, u32, u32, u32) {
    let secs = t.as_millis() / 1000;
    let days = i64::try_from(secs / 86_400).unwrap_or(0);
    // Days to a date of the proleptic Gregorian calendar, in eras of 400 years that begin on 1 March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let small = |n: i64| u32::try_from(n).unwrap_or(0);
    (year, small(month), small(day), u32::try_from(secs % 86_400).unwrap_or(0))
}

/// `2026-11-22`.
pub(crate) fn date(t: UnixTime) -> String {
    let (y, m, d, _) = civil(t);
    format!("{y:04}-{m:02}-{d:02}")
}

/// `17:02:20Z`.
pub(crate) fn time_of_day(t: UnixTime) -> String {
    let (_, _, _, s) = civil(t);
    format!("{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

/// `2026-11-22 17:02Z`.
pub(crate) fn minute(t: UnixTime) -> String {
    let (_, _, _, s) = civil(t);
    format!("{} {:02}:{:02}Z", date(t), s / 3600, s / 60 % 60)
}

/// The civil clock of this machine.
pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixTime::EPOCH + since
}

/// How this program was called, so that what it tells people to type works where they are.
pub(crate) fn program() -> String {
    let name = std::env::args().next().unwrap_or_default();
    // Found on the PATH it is just its name; called by a path (cargo run does) it is that path.
    if name.is_empty() { "mpp".to_owned() } else { shell_word(&name) }
}

/// `word` as one word of a shell's command line.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./@:+,=%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", printable(word).replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_drive_the_terminal() {
        assert_eq!(printable("caf\u{e9} \u{1f600}"), "caf\u{e9} \u{1f600}");
        assert_eq!(printable("\u{1b}]0;owned\u{7}"), "\\u{1b}]0;owned\\u{7}");
        assert_eq!(printable("a\r\nb\tc"), "a\\r\\nb\\tc");
        assert_eq!(printable("\u{9b}2J\u{7f}"), "\\u{9b}2J\\u{7f}");
        assert_eq!(printable("\u{202e}gpj.exe\u{2066}"), "\\u{202e}gpj.exe\\u{2066}");
        for c in (0..=0x10_ffff).filter_map(char::from_u32).filter(|c| c.is_control()) {
            assert!(!printable(&c.to_string()).contains(c), "{c:?}");
        }
    }

    #[test]
    fn payloads_on_one_line() {
        assert_eq!(payload(b"hello", None), "hello");
        assert_eq!(payload(b"", None), "");
        assert_eq!(payload(&[0xff, 0x00], None), "2 bytes: ff00");
        assert_eq!(payload(&[0xff; 2000], None), format!("2,000 bytes: {}..", "ff".repeat(16)));
        assert_eq!(
            payload("\u{e9}\u{e9}\u{e9}".as_bytes(), Some(2)),
            "\u{e9}\u{e9}.. (6 bytes, --json shows all)"
        );
        assert_eq!(payload(b"abc", Some(3)), "abc");
    }

    #[test]
    fn hex_both_ways() {
        assert_eq!(hex(&[0, 0x1f, 0xff]), "001fff");
        assert_eq!(unhex("001FfF"), Some(vec![0, 0x1f, 0xff]));
        for wrong in ["0", "0g", "+1", "\u{e9}"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations() {
        let ok = |s: &str| parse_duration(s).unwrap().as_millis();
        assert_eq!(ok("90d"), 90 * 86_400_000);
        assert_eq!(ok("1h30m"), 5_400_000);
        assert_eq!(ok("250ms"), 250);
        assert_eq!(ok("0"), 0);
        assert_eq!(ok("0s"), 0);
        for wrong in
            ["", "5", "d", "1x", "-1s", "1.5h", "1 h", "99999999999999999999s", "213503982335d", "1h\n"]
        {
            let error = parse_duration(wrong).unwrap_err();
            assert!(error.contains("90d") && !error.contains('\n'), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn durations_to_read() {
        assert_eq!(duration(Duration::from_micros(1340)), "1.3 ms");
        assert_eq!(duration(Duration::from_millis(240)), "240 ms");
        assert_eq!(duration(Duration::from_millis(4200)), "4.2 s");
        assert_eq!(duration(Duration::from_secs(119)), "119.0 s");
        assert_eq!(duration(Duration::from_secs(216)), "216 s", "not three minutes");
        assert_eq!(duration(Duration::from_secs(900)), "15 min");
        assert_eq!(duration(Duration::from_secs(90 * 86_400)), "90 days");
    }

    #[test]
    fn dates() {
        let at = |s: u64| UnixTime::from_millis(s * 1000);
        assert_eq!(date(at(0)), "1970-01-01");
        assert_eq!(date(at(951_782_400)), "2000-02-29");
        assert_eq!(date(at(951_868_800)), "2000-03-01");
        assert_eq!(minute(at(1_795_366_940)), "2026-11-22 17:02Z");
        assert_eq!(time_of_day(at(1_795_366_940)), "17:02:20Z");
        assert_eq!(date(at(4_107_542_400)), "2100-03-01");
    }

    #[test]
    fn groups_of_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(16_384), "16,384");
        assert_eq!(grouped(1_000_000), "1,000,000");
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(shell_word("target/release/mpp"), "target/release/mpp");
        assert_eq!(shell_word("/tmp/my dir"), "'/tmp/my dir'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
