//! Reads a page of documentation as something that can be carried out.
//!
//! A block marked `sh` is run; a block marked `text` right after it is what it must show. A block marked `yaml` is the file
//! whose name stood last before it, in backticks. Other blocks are for reading.

/// A part of a page.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// A file.
    File { name: String, text: String },
    /// Commands.
    Run {
        /// Number of their first line.
        line: usize,
        commands: String,
        /// What they must show, line by line.
        shows: Vec<String>,
    },
}

/// Reads a page.
pub fn read(page: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut named = None;
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            named = name_in(line).or(named);
            continue;
        };
        let block: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .collect();
        match (kind, parts.last_mut()) {
            ("sh", _) => parts.push(Part::Run {
                line: number + 2,
                commands: block.join("\n"),
                shows: Vec::new(),
            }),
            ("text", Some(Part::Run { shows, .. })) => shows.extend(block.into_iter().map(str::to_owned)),
            ("yaml", _) => parts.push(Part::File {
                name: named.clone().expect("a file's name stands before it"),
                text: block.join("\n") + "\n",
            }),
            ("", _) => {}
            (kind, _) => panic!("line {}: a block of kind {kind:?}", number + 1),
        }
    }
    parts
}

/// Returns the last word in backticks that is the name of a file of YAML.
fn name_in(line: &str) -> Option<String> {
    let words = line.split('`').skip(1).step_by(2);
    words
        .filter(|word| word.ends_with(".yaml") && !word.contains('/'))
        .last()
        .map(str::to_owned)
}

/// Returns whether a line is what a pattern shows: blanks are alike, and `…` is anything.
pub fn shows(pattern: &str, line: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (pattern, line) = (plain(pattern), plain(line));
    let mut parts = pattern.split('…').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut open = false;
    for part in parts {
        open = true;
        if part.is_empty() {
            continue;
        }
        open = false;
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    open || pattern.ends_with('…') || rest.trim().is_empty()
}

#[test]
fn a_page_is_read_block_by_block() {
    let page = "Say `a/b.yaml` and\n`x.yaml`:\n\n```yaml\nkind: X\n```\ntext\n```sh\nkubectl get x\n```\n```text\nX … Ready\n```\n\
                ```\nnot run\n```\n";
    let file = Part::File {
        name: "x.yaml".to_owned(),
        text: "kind: X\n".to_owned(),
    };
    let run = Part::Run {
        line: 9,
        commands: "kubectl get x".to_owned(),
        shows: vec!["X … Ready".to_owned()],
    };
    assert_eq!(read(page), [file, run]);
}

#[test]
fn a_line_is_compared_but_for_blanks_and_what_is_left_open() {
    assert!(shows("NAME … PHASE … AGE", "NAME   PHASE     VERSION  AGE"));
    assert!(shows("… Ready …", "node   Ready   0.1.0"));
    assert!(shows("roles:", "   roles:"));
    assert!(!shows("roles:", "roles: x"));
    assert!(!shows("… Ready …", "node   Lost   0.1.0"));
    assert!(!shows("good … GATE-PASS …", "bad  Succeeded  GATE-PASS  1s"));
}
