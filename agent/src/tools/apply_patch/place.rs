//! Finds where the hunks of a patch belong, and puts them there.

use super::parse::Hunk;
use crate::tools::matching::{self, Match};
use crate::tools::output::printable;

/// Puts the hunks into a text, in the order of their places; an error says which does not fit, and what is there.
pub(super) fn apply(text: &str, hunks: &[Hunk], stop: &dyn Fn() -> bool) -> Result<String, String> {
    let mut order: Vec<(usize, &Hunk)> = hunks.iter().enumerate().collect();
    if hunks.iter().all(|hunk| hunk.start.is_some()) {
        order.sort_by_key(|(_, hunk)| hunk.start);
    }
    let mut patched = Patched {
        text: text.to_owned(),
        from: 0,
        drift: 0,
        stop,
    };
    for (number, hunk) in order {
        patched
            .put(hunk)
            .map_err(|reason| format!("hunk {} of {} does not fit: {reason}", number + 1, hunks.len()))?;
    }
    Ok(patched.text)
}

/// A text while hunks are put into it.
struct Patched<'a> {
    text: String,
    /// The byte after the last hunk: hunks follow each other.
    from: usize,
    /// How many lines further down things stand than the patch says.
    drift: isize,
    stop: &'a dyn Fn() -> bool,
}

impl Patched<'_> {
    fn put(&mut self, hunk: &Hunk) -> Result<(), String> {
        let named = self.go_to(hunk)?;
        if hunk.old.is_empty() {
            self.insert(hunk, named);
            return Ok(());
        }
        let (old, new) = (block(&hunk.old), block(&hunk.new));
        let found = self.find(hunk, &old, &new, named)?;
        let line = line_at(&self.text, found.start);
        self.text.replace_range(found.start..found.end, &found.replacement);
        self.from = found.start + found.replacement.len();
        if let Some(start) = hunk.start {
            self.drift = distance(start, line) + distance(hunk.old.len(), hunk.new.len());
        }
        Ok(())
    }

    /// Goes to the line that `@@ …` names; tells whether the place is known by it.
    fn go_to(&mut self, hunk: &Hunk) -> Result<bool, String> {
        let Some(near) = &hunk.near else { return Ok(false) };
        // Each line with its own end: a file may mix the kinds, and the last line may have none.
        let mut lines = self.text[self.from..]
            .split_inclusive('\n')
            .scan(self.from, |at, line| {
                let start = *at;
                *at += line.len();
                Some((start, line))
            });
        let found = lines.find(|(_, line)| line.trim() == near.trim() || line.trim_start().starts_with(near.trim()));
        let Some((start, line)) = found else {
            if hunk.old.is_empty() {
                return Err(format!(
                    "no line begins with {near:?}, after which lines are to be added; copy the line as it stands in the file"
                ));
            }
            return Ok(false);
        };
        // The hunk may begin with that line or after it.
        self.from = if hunk.old.first().is_some_and(|first| first.trim() == line.trim()) {
            start
        } else {
            start + line.len()
        };
        Ok(true)
    }

    /// Returns the line at which a line of the patch's numbers stands by now.
    fn shifted(&self, line: usize) -> usize {
        usize::try_from(distance(0, line) + self.drift).unwrap_or(0)
    }

    /// Puts a hunk of added lines only after the place that it names, else at the end.
    fn insert(&mut self, hunk: &Hunk, named: bool) {
        let at = match hunk.start {
            _ if named => self.from,
            Some(start) => line_start(&self.text, self.shifted(start) + 1).max(self.from),
            None => self.text.len(),
        };
        let new = block(&hunk.new);
        let glue = if at > 0 && !self.text[..at].ends_with('\n') {
            "\n"
        } else {
            ""
        };
        self.text.insert_str(at, &format!("{glue}{new}"));
        self.from = at + glue.len() + new.len();
        self.drift += distance(0, hunk.new.len());
    }

    /// Finds the place whose lines a hunk replaces: the one nearest to its line number, the first after the line that
    /// it names, else the only one.
    fn find(&self, hunk: &Hunk, old: &str, new: &str, named: bool) -> Result<Match, String> {
        let expected = hunk.start.map(|start| self.shifted(start).max(1));
        if let Some(expected) = expected {
            // Where the lines stand as the patch says, no other place is looked for, however alike.
            let start = line_start(&self.text, expected);
            let end = line_start(&self.text, expected + hunk.old.len());
            let here = self.places(start, end, old, new)?;
            if let Some(found) = here
                .into_iter()
                .find(|found| found.start == start && start >= self.from)
            {
                return Ok(found);
            }
        }
        let end = self.text.len();
        let places = self.places(self.from, end, old, new)?;
        if places.is_empty() {
            // It may belong before the last hunk, if it stands nowhere else.
            return self.only(self.places(0, end, old, new)?, old);
        }
        let lines = matching::lines_of(&self.text, places.iter().map(|place| place.start));
        let chosen = match expected {
            Some(expected) => places
                .into_iter()
                .zip(lines)
                .min_by_key(|(_, line)| line.abs_diff(expected))
                .map(|(place, _)| place),
            None if named => places.into_iter().next(),
            None => return self.only(places, old),
        };
        chosen.ok_or_else(|| self.nothing_like(old))
    }

    /// Finds where the lines stand between two bytes. An exact match may begin in the middle of a line; such a one is no
    /// place for whole lines.
    fn places(&self, from: usize, to: usize, old: &str, new: &str) -> Result<Vec<Match>, String> {
        let found = matching::find(&self.text[from..to], old, new, self.stop).map_err(|error| error.to_string())?;
        let bytes = self.text.as_bytes();
        Ok(found
            .map(|(_, matches)| matches)
            .unwrap_or_default()
            .into_iter()
            .map(|found| Match {
                start: from + found.start,
                end: from + found.end,
                ..found
            })
            .filter(|found| found.start == 0 || bytes.get(found.start - 1) == Some(&b'\n'))
            .collect())
    }

    fn only(&self, places: Vec<Match>, old: &str) -> Result<Match, String> {
        if places.len() > 1 {
            let lines = matching::lines_of(&self.text, places.iter().map(|place| place.start));
            let shown: Vec<String> = lines.iter().take(20).map(usize::to_string).collect();
            return Err(format!(
                "its lines stand in {} places (at line {}); add surrounding lines until they are unique, or name a line before them by `@@ …`",
                lines.len(),
                shown.join(", ")
            ));
        }
        places.into_iter().next().ok_or_else(|| self.nothing_like(old))
    }

    fn nothing_like(&self, old: &str) -> String {
        let near = matching::nearest(&self.text, old).unwrap_or_else(|| "nothing in the file is like it".into());
        printable(&near)
    }
}

fn block(lines: &[String]) -> String {
    if lines.is_empty() {
        String::new()
    } else {
        format!("{}\n", lines.join("\n"))
    }
}

/// Returns how much further `b` is than `a`, in lines.
fn distance(a: usize, b: usize) -> isize {
    let signed = |n: usize| isize::try_from(n).unwrap_or(isize::MAX / 4).min(isize::MAX / 4);
    signed(b) - signed(a)
}

/// Returns the line, from 1, in which a byte stands.
fn line_at(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Returns the byte at which a line, from 1, begins; the end of the text where there are fewer.
fn line_start(text: &str, line: usize) -> usize {
    match line.checked_sub(2) {
        None => 0,
        Some(before) => text
            .match_indices('\n')
            .nth(before)
            .map_or(text.len(), |(at, _)| at + 1),
    }
}
