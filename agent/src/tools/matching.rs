//! Finds the lines that a model means, although it did not copy them quite right.
//!
//! The stages are tried in order: exact, trailing space, indentation, Unicode punctuation. The first stage that
//! matches anything decides; whether its matches are the expected ones is for the caller to say.
//!
//! The work grows with the text and not with text times pattern: each line of both is brought to its plain form once,
//! and the lines are then searched as letters of a word are, by Knuth, Morris and Pratt.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use similar::TextDiff;

/// Names how a match was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Byte for byte.
    Exact,
    /// Spaces at line ends differ.
    TrailingSpace,
    /// The lines are indented otherwise; the replacement is indented as the file is.
    Indentation,
    /// Quotes, dashes or spaces are of another kind.
    Punctuation,
}

impl Stage {
    /// Says what was overlooked, for the model.
    pub fn note(self) -> Option<&'static str> {
        match self {
            Self::Exact => None,
            Self::TrailingSpace => Some("spaces at line ends were ignored"),
            Self::Indentation => Some("the indentation differed; the new text was indented like the file"),
            Self::Punctuation => Some("typographic quotes, dashes or spaces were taken for plain ones"),
        }
    }
}

/// Holds one place of a text and what is to stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// The new text.
    pub replacement: Arc<str>,
}

/// Tells why a search was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GivenUp {
    /// It took too long, or the run was cancelled.
    #[error("the search took too long; copy fewer lines, or change the file by a command")]
    Stopped,
    /// The new text would have to be kept in too many forms.
    #[error("it stands in too many places of different indentation; add surrounding lines until it is unique")]
    TooMany,
}

/// Most bytes of new text that are kept for one search.
const KEPT: usize = 64 * 1024 * 1024;
/// Lines that are looked at between two questions whether to stop.
const LINES_PER_LOOK: usize = 4096;

/// Finds every place where `old` stands, in the first stage that finds any. `stop` says when to give up.
pub fn find(text: &str, old: &str, new: &str, stop: &dyn Fn() -> bool) -> Result<Option<(Stage, Vec<Match>)>, GivenUp> {
    if stop() {
        return Err(GivenUp::Stopped);
    }
    let as_it_is: Arc<str> = new.into();
    let exact: Vec<Match> = text
        .match_indices(old)
        .map(|(start, _)| Match {
            start,
            end: start + old.len(),
            replacement: as_it_is.clone(),
        })
        .collect();
    if !exact.is_empty() {
        return Ok(Some((Stage::Exact, exact)));
    }
    let lines = Lines::new(text);
    let old_lines: Vec<&str> = old.strip_suffix('\n').unwrap_or(old).split('\n').collect();
    if old_lines.iter().all(|line| line.trim().is_empty()) {
        return Ok(None);
    }
    for stage in [Stage::TrailingSpace, Stage::Indentation, Stage::Punctuation] {
        let mut matches = Vec::new();
        let mut kept = 0usize;
        let mut search = Search::new(stage, &old_lines);
        for line in 0..lines.len() {
            if line % LINES_PER_LOOK == 0 && stop() {
                return Err(GivenUp::Stopped);
            }
            if !search.push(lines.get(line)) {
                continue;
            }
            // Windows may overlap, and each is looked at line by line.
            if stop() {
                return Err(GivenUp::Stopped);
            }
            let at = line + 1 - old_lines.len();
            let window = (at..=line).map(|line| lines.get(line));
            let replacement = match stage {
                Stage::Exact | Stage::TrailingSpace => Some(as_it_is.clone()),
                Stage::Indentation => reindent(window, &old_lines, new).map(Arc::from),
                Stage::Punctuation => {
                    Some(reindent(window, &old_lines, new).map_or_else(|| as_it_is.clone(), Arc::from))
                }
            };
            let Some(replacement) = replacement else { continue };
            if !Arc::ptr_eq(&replacement, &as_it_is) {
                kept += replacement.len();
                if kept > KEPT {
                    return Err(GivenUp::TooMany);
                }
            }
            matches.push(lines.place(at, old_lines.len(), old.ends_with('\n'), replacement));
            search.restart();
        }
        if !matches.is_empty() {
            return Ok(Some((stage, matches)));
        }
    }
    Ok(None)
}

/// Looks for a row of lines that are alike in one stage.
struct Search<'a> {
    stage: Stage,
    /// The lines of the pattern, each named by the first that is like it.
    names: HashMap<Cow<'a, str>, usize>,
    pattern: Vec<usize>,
    /// For each number of lines that fit: with how many the row may still have begun, when the next does not.
    shorter: Vec<usize>,
    fitting: usize,
}

impl<'a> Search<'a> {
    fn new(stage: Stage, old: &[&'a str]) -> Self {
        let mut names = HashMap::new();
        let pattern: Vec<usize> = old
            .iter()
            .enumerate()
            .map(|(at, line)| *names.entry(plain_form(stage, line)).or_insert(at))
            .collect();
        let mut shorter = vec![0; pattern.len()];
        let mut length = 0;
        for at in 1..pattern.len() {
            while length > 0 && pattern[at] != pattern[length] {
                length = shorter[length - 1];
            }
            length += usize::from(pattern[at] == pattern[length]);
            shorter[at] = length;
        }
        Self {
            stage,
            names,
            pattern,
            shorter,
            fitting: 0,
        }
    }

    /// Takes the next line; tells whether the pattern ends with it.
    fn push(&mut self, line: &str) -> bool {
        let name = self.names.get(&*plain_form(self.stage, line)).copied();
        if self.fitting == self.pattern.len() {
            self.fitting = self.shorter[self.fitting - 1];
        }
        loop {
            if name == Some(self.pattern[self.fitting]) {
                self.fitting += 1;
                return self.fitting == self.pattern.len();
            }
            if self.fitting == 0 {
                return false;
            }
            self.fitting = self.shorter[self.fitting - 1];
        }
    }

    /// Forgets what it saw: what was taken is no part of another place.
    fn restart(&mut self) {
        self.fitting = 0;
    }
}

/// Returns what of a line counts in a stage.
fn plain_form(stage: Stage, line: &str) -> Cow<'_, str> {
    match stage {
        Stage::Exact => line.into(),
        Stage::TrailingSpace => line.trim_end().into(),
        Stage::Indentation => line.trim().into(),
        Stage::Punctuation => plain(line).trim().to_owned().into(),
    }
}

/// Puts the replacements into the text.
pub fn apply(text: &str, matches: &[Match]) -> String {
    let mut result = String::with_capacity(text.len());
    let mut from = 0;
    for found in matches {
        result.push_str(&text[from..found.start]);
        result.push_str(&found.replacement);
        from = found.end;
    }
    result.push_str(&text[from..]);
    result
}

/// Returns the line numbers, from 1, of bytes in rising order.
pub fn lines_of(text: &str, bytes: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let (mut at, mut line) = (0, 1);
    bytes
        .into_iter()
        .map(|byte| {
            let byte = byte.clamp(at, text.len());
            line += text.as_bytes()[at..byte].iter().filter(|byte| **byte == b'\n').count();
            at = byte;
            line
        })
        .collect()
}

/// Returns how many bytes [`apply`] would make.
pub fn size_after(text: &str, matches: &[Match]) -> usize {
    let (gone, new) = matches.iter().fold((0usize, 0usize), |(gone, new), found| {
        (
            gone + (found.end - found.start),
            new.saturating_add(found.replacement.len()),
        )
    });
    (text.len() - gone).saturating_add(new)
}

struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let mut starts = vec![0];
        starts.extend(
            text.match_indices('\n')
                .map(|(at, _)| at + 1)
                .filter(|at| *at < text.len()),
        );
        Self { text, starts }
    }

    fn len(&self) -> usize {
        self.starts.len()
    }

    fn end(&self, line: usize) -> usize {
        let end = self.starts.get(line + 1).copied().unwrap_or(self.text.len());
        if end > self.starts[line] && self.text.as_bytes()[end - 1] == b'\n' {
            end - 1
        } else {
            end
        }
    }

    fn get(&self, line: usize) -> &'a str {
        &self.text[self.starts[line]..self.end(line)]
    }

    /// The line end belongs to the place where the old text had one; a file may end without it.
    fn place(&self, first: usize, count: usize, with_end: bool, mut replacement: Arc<str>) -> Match {
        let mut end = self.end(first + count - 1);
        if with_end {
            if end < self.text.len() {
                end += 1;
            } else if let Some(without) = replacement.strip_suffix('\n') {
                replacement = without.into();
            }
        }
        Match {
            start: self.starts[first],
            end,
            replacement,
        }
    }
}

/// Indents `new` by what the pairs of lines say about the file's indentation; `None` where they contradict each other.
fn reindent<'a>(window: impl Iterator<Item = &'a str>, old: &[&str], new: &str) -> Option<String> {
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    let mut last = None;
    for (file, old) in window.zip(old).filter(|(_, old)| !old.trim().is_empty()) {
        let (file, old) = (indent(file), indent(old));
        if last.replace((file, old)) == Some((file, old)) {
            continue;
        }
        if *known.entry(old).or_insert(file) != file {
            return None;
        }
    }
    // Lines further left than any known one move by what the leftmost known one moved.
    let (least_old, least_file) = known
        .iter()
        .min_by_key(|(old, _)| old.len())
        .map(|(old, file)| (*old, *file))?;
    let lengths: BTreeSet<usize> = known.keys().map(|old| old.len()).collect();
    let lines = new.split('\n').map(|line| {
        if line.trim().is_empty() {
            return line.to_owned();
        }
        let own = indent(line);
        let longest = lengths.range(..=own.len()).rev();
        let mut base = longest.filter_map(|length| Some((length, known.get(own.get(..*length)?)?)));
        match base.next() {
            Some((length, file)) => format!("{file}{}", &line[*length..]),
            None => match least_file.strip_suffix(least_old) {
                Some(added) => format!("{added}{line}"),
                None => line.to_owned(),
            },
        }
    });
    Some(lines.collect::<Vec<_>>().join("\n"))
}

fn indent(line: &str) -> &str {
    &line[..line.len() - line.trim_start().len()]
}

fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' | '\u{2032}' => '\'',
            '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' | '\u{2033}' => '"',
            '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
            '\u{a0}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}' => ' ',
            other => other,
        })
        .collect()
}

/// Shows the lines of a text that are most like `wanted`, with their numbers; `None` where nothing is near.
pub fn nearest(text: &str, wanted: &str) -> Option<String> {
    const SHOWN: usize = 12;
    let lines: Vec<&str> = text.lines().take(20_000).collect();
    let wanted: Vec<&str> = wanted.lines().collect();
    // The longest line says most about where the text belongs.
    let (offset, anchor) = wanted.iter().enumerate().max_by_key(|(_, line)| line.trim().len())?;
    let grams = bigrams(anchor);
    if grams.is_empty() {
        return None;
    }
    let mut candidates: Vec<(usize, usize)> = lines
        .iter()
        .enumerate()
        .map(|(at, line)| (at, dice(&grams, &bigrams(line))))
        .filter(|(_, score)| *score >= 40)
        .collect();
    candidates.sort_by_key(|(at, score)| (std::cmp::Reverse(*score), *at));
    let size = wanted.len().clamp(1, SHOWN);
    let wanted_text = wanted.iter().take(size).copied().collect::<Vec<_>>().join("\n");
    let window = |at: usize| {
        let first = at.saturating_sub(offset).min(lines.len().saturating_sub(1));
        (first, (first + size).min(lines.len()))
    };
    let best = candidates.iter().take(8).map(|(at, _)| {
        let (first, last) = window(*at);
        let there = lines[first..last].join("\n");
        let ratio = TextDiff::from_chars(
            super::output::head_bytes(&there, 2000),
            super::output::head_bytes(&wanted_text, 2000),
        )
        .ratio();
        ((ratio * 100.0) as u32, first, last)
    });
    let (score, first, last) = best.max_by_key(|(score, first, _)| (*score, std::cmp::Reverse(*first)))?;
    let (first, last) = (first.saturating_sub(1), (last + 1).min(lines.len()));
    let shown: Vec<String> = (first..last)
        .map(|at| format!("{:>6}| {}", at + 1, super::output::truncate(lines[at], 200)))
        .collect();
    Some(format!(
        "the nearest lines ({score} % alike) are:\n{}",
        shown.join("\n")
    ))
}

fn bigrams(line: &str) -> HashSet<(char, char)> {
    let chars: Vec<char> = line.trim().chars().take(200).filter(|c| !c.is_whitespace()).collect();
    chars.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

fn dice(a: &HashSet<(char, char)>, b: &HashSet<(char, char)>) -> usize {
    if a.is_empty() || b.is_empty() {
        return 0;
    }
    200 * a.intersection(b).count() / (a.len() + b.len())
}

#[cfg(test)]
mod tests;
