//! A journal as people read it.

use agent::journal::Entry;

/// Renders whole lines of a journal; a line that is no entry is left out.
pub fn render(text: &str) -> String {
    let entries = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    entries.map(|entry: Entry| one(&entry)).collect()
}

fn one(entry: &Entry) -> String {
    match entry {
        Entry::Header(header) => {
            let replay = if header.replay {
                ", REPLAYED: no model was asked"
            } else {
                ""
            };
            format!(
                "== {} round {}, model {}{replay}\n",
                header.task, header.round, header.model
            )
        }
        Entry::Message { turn, message } => format!("\n[{turn}] {:?}: {}\n", message.role, message.content),
        Entry::Reply { turn, reply } => {
            let mut text = format!("\n[{turn}] model: {}\n", reply.content);
            for call in &reply.calls {
                text.push_str(&format!("    {} {}\n", call.name, call.arguments));
            }
            text
        }
        Entry::Result {
            turn,
            tool,
            outcome,
            content,
            ..
        } => format!("[{turn}] {tool} {outcome:?}: {content}\n"),
        Entry::ModelFailed { turn, message, .. } => format!("[{turn}] the model request failed: {message}\n"),
        Entry::Note { turn, text } => format!("[{turn}] note: {text}\n"),
        Entry::End(end) => format!("\n== {}: {}\n", end.verdict.as_str(), end.summary),
        Entry::Unknown => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_says_so_and_broken_lines_are_left_out() {
        let header =
            r#"{"type":"header","format":1,"task":"t","round":2,"model":"m","protocol":"native","replay":true}"#;
        let text = render(&format!(
            "{header}\nnot json\n{{\"type\":\"note\",\"turn\":1,\"text\":\"hm\"}}\n"
        ));
        assert!(text.contains("== t round 2, model m, REPLAYED"));
        assert!(text.contains("note: hm") && !text.contains("not json"));
    }
}
