//! Server-sent events, as far as model servers use them.

use serde_json::{Value, json};

/// Cuts a byte stream into the `data` of its events.
///
/// Follows the WHATWG event-stream grammar for `data`, comments and line ends; other fields are skipped, but for `error`,
/// which llama.cpp sends in place of `data` where a request fails after the stream has begun.
#[derive(Debug)]
pub struct SseParser {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
    /// Whether a line has ended: before that a byte order mark may stand.
    past_first: bool,
    limit: usize,
}

/// Tells that one event is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTooLong;

impl SseParser {
    /// Starts a parser that holds at most `limit` bytes of one event.
    pub fn new(limit: usize) -> Self {
        Self {
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            past_first: false,
            limit,
        }
    }

    /// Takes more bytes and returns the events that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, EventTooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let newline_of_pair = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            if newline_of_pair {
                continue;
            }
            if byte == b'\r' || byte == b'\n' {
                self.end_line(&mut events);
            } else {
                self.line.push(byte);
                if self.line.len() + self.data.len() > self.limit {
                    return Err(EventTooLong);
                }
            }
        }
        Ok(events)
    }

    /// Returns an event whose closing empty line never came: some servers close right after the last one.
    pub fn finish(mut self) -> Option<String> {
        let mut events = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&mut events);
        }
        self.end_line(&mut events);
        events.pop()
    }

    fn end_line(&mut self, events: &mut Vec<String>) {
        if self.line.is_empty() {
            if self.has_data {
                events.push(String::from_utf8_lossy(&self.data).into_owned());
            }
            self.data.clear();
            self.has_data = false;
            return;
        }
        let line = std::mem::take(&mut self.line);
        let first = !std::mem::replace(&mut self.past_first, true);
        let line = match line.strip_prefix("\u{feff}".as_bytes()) {
            Some(line) if first => line,
            _ => &line,
        };
        if let Some(value) = value_of(line, b"data") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
            self.has_data = true;
        } else if let Some(value) = value_of(line, b"error") {
            // An event that reports a failure carries nothing else worth reading.
            self.data = wrapped_error(value).into_bytes();
            self.has_data = true;
        }
    }
}

/// Returns the value of a line that holds the named field.
fn value_of<'a>(line: &'a [u8], field: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(field)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// Writes the value of an `error` field as other servers write it into `data`: an object with the key `error`.
fn wrapped_error(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(object)) if object.contains_key("error") => text.into_owned(),
        Ok(value) => json!({ "error": value }).to_string(),
        Err(_) => json!({ "error": text }).to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_bytes_are_cut() {
        let stream = ": hello\r\ndata: {\"a\":\"é\"}\r\n\r\nevent: x\ndata: one\ndata:two\n\ndata\n\ndata: [DONE]\n\n"
            .as_bytes();
        let expected = vec![
            "{\"a\":\"é\"}".to_owned(),
            "one\ntwo".to_owned(),
            String::new(),
            "[DONE]".to_owned(),
        ];
        for size in 1..stream.len() {
            let mut parser = SseParser::new(1024);
            let mut seen = Vec::new();
            for piece in stream.chunks(size) {
                seen.extend(parser.feed(piece).unwrap());
            }
            assert_eq!(seen, expected, "cut into pieces of {size}");
            assert_eq!(parser.finish(), None);
        }
    }

    #[test]
    fn a_byte_order_mark_before_the_first_line_hides_nothing() {
        let mut parser = SseParser::new(64);
        let events = parser.feed("\u{feff}data: a\n\ndata: \u{feff}b\n\n\u{feff}data: c\n\n".as_bytes());
        assert_eq!(events.unwrap(), ["a", "\u{feff}b"]);
    }

    #[test]
    fn an_event_without_its_closing_line_is_still_returned_at_the_end() {
        let mut parser = SseParser::new(64);
        assert!(parser.feed(b"data: last").unwrap().is_empty());
        assert_eq!(parser.finish(), Some("last".to_owned()));
    }

    #[test]
    fn an_event_beyond_the_limit_is_refused() {
        let mut parser = SseParser::new(8);
        assert_eq!(parser.feed(b"data: much too long"), Err(EventTooLong));
    }

    #[test]
    fn a_failure_in_a_field_of_its_own_is_an_event_like_any_other() {
        for (line, event) in [
            ("error: {\"code\":400}", "{\"error\":{\"code\":400}}"),
            ("error:{\"error\":{\"code\":1}}", "{\"error\":{\"code\":1}}"),
            ("error: gone", "{\"error\":\"gone\"}"),
        ] {
            let mut parser = SseParser::new(64);
            let events = parser.feed(format!("data: a\n\n{line}\n\n").as_bytes()).unwrap();
            assert_eq!(events, ["a", event]);
            let mut parser = SseParser::new(64);
            assert!(parser.feed(line.as_bytes()).unwrap().is_empty());
            assert_eq!(
                parser.finish().as_deref(),
                Some(event),
                "the connection ended right after it"
            );
        }
        let mut parser = SseParser::new(64);
        assert!(parser.feed(b"errors: 1\n\n").unwrap().is_empty());
    }
}
