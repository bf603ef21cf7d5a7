//! A user and a password, as HTTP carries them (RFC 7617).

/// Returns the value of an authorization header for `user:password`.
pub(super) fn basic(user: &[u8]) -> String {
    format!("Basic {}", base64(user))
}

/// Undoes the escapes of a URL.
pub(super) fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = text
            .get(index + 1..index + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[index], code) {
            (b'%', Some(code)) => {
                result.push(code);
                index += 3;
            }
            (byte, _) => {
                result.push(byte);
                index += 1;
            }
        }
    }
    result
}

/// Encodes as RFC 4648 says, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut result = String::new();
    for chunk in bytes.chunks(3) {
        let value = chunk.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let letter = ALPHABET[(value >> (18 - 6 * index)) as usize & 63];
            result.push(if index <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_standard() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn escapes_of_a_url_are_undone() {
        assert_eq!(percent_decode("us%40er:p%w%2"), b"us@er:p%w%2");
    }
}
