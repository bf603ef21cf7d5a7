//! What a model does not see of a file's text, and what stays as it is when the file is written.

/// What an editor puts before the first line of some files.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

/// How a file ends its lines, and whether a byte order mark stands before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) crlf: bool,
    marked: bool,
}

impl Form {
    /// Looks at a file's text.
    pub(super) fn of(text: &str) -> Self {
        let ends = text.matches('\n').count();
        Self {
            crlf: ends > 0 && text.matches("\r\n").count() == ends,
            marked: text.starts_with(BYTE_ORDER_MARK),
        }
    }

    /// Brings a text whose lines end by `\n` to this form.
    pub(super) fn bring(self, text: &str) -> String {
        let mark = if self.marked && !text.starts_with(BYTE_ORDER_MARK) {
            "\u{feff}"
        } else {
            ""
        };
        if self.crlf {
            format!("{mark}{}", text.replace('\n', "\r\n"))
        } else {
            format!("{mark}{text}")
        }
    }

    /// Brings a whole new text to this form; one that has a `\r` says itself how its lines end.
    pub(super) fn keep(self, text: &str) -> String {
        let crlf = self.crlf && !text.contains('\r');
        Self { crlf, ..self }.bring(text)
    }
}
