//! Server-sent events, as far as model servers use them.

/// Cuts a byte stream into the `data` of its events.
///
/// Follows the WHATWG event-stream grammar for `data`, comments and line ends; other fields are skipped.
#[derive(Debug)]
pub struct SseParser {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
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
        if let Some(rest) = line.strip_prefix(b"data") {
            let value = match rest {
                [] => Some(rest),
                [b':', b' ', value @ ..] => Some(value),
                [b':', value @ ..] => Some(value),
                _ => None,
            };
            if let Some(value) = value {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.has_data = true;
            }
        }
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
}
