//! Texts that people write, with any editor.

/// The text in the bytes of a file, in UTF-8: without the byte order mark that some editors
/// write, and with lines that end in `\n`, whether they ended in `\r\n` or `\r`. The error
/// tells at which byte the file is no such text.
pub(crate) fn decoded(bytes: Vec<u8>) -> Result<String, String> {
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes[..] {
        return Err(UTF16.into());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[at];
        format!("byte {at} (0x{byte:02x}) is not UTF-8: save the file as UTF-8")
    })?;
    // Without a mark, ASCII in UTF-16 is UTF-8 with a NUL in every other byte.
    if text.contains('\0') {
        return Err(UTF16.into());
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n");
    Ok(match text.contains('\n') {
        true => text,
        false => text.replace('\r', "\n"),
    })
}

const UTF16: &str = "it is UTF-16 or no text: save the file as UTF-8";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Result<String, String> {
        decoded(bytes.to_vec())
    }

    #[test]
    fn marks_and_line_ends_of_other_systems_make_no_difference() {
        for bytes in [
            &b"caf\xc3\xa9\nstar\n"[..],
            b"\xef\xbb\xbfcaf\xc3\xa9\nstar\n",
            b"caf\xc3\xa9\r\nstar\r\n",
            b"caf\xc3\xa9\rstar\r",
        ] {
            assert_eq!(text(bytes).unwrap(), "café\nstar\n");
        }
        assert_eq!(text(b"a\rb\n").unwrap(), "a\rb\n");
        assert_eq!(text(b"").unwrap(), "");
    }

    #[test]
    fn other_encodings_are_told_with_their_place() {
        let error = text(b"caf\xe9 star").unwrap_err();
        assert!(error.contains("byte 3 (0xe9)"), "{error}");
        for bytes in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a", b"a\0b\0", b"\0a\0b"] {
            assert!(text(bytes).unwrap_err().contains("UTF-16"), "{bytes:?}");
        }
    }
}
