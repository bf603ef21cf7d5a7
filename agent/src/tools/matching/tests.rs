#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use proptest::prelude::*;

fn replace(text: &str, old: &str, new: &str) -> Option<(Stage, String)> {
    let found = find(text, old, new, &|| false).unwrap();
    found.map(|(stage, matches)| (stage, apply(text, &matches)))
}

#[test]
fn each_stage_finds_what_the_one_before_does_not() {
    let text = "fn a() {  \n    let x = 1;\n    go(x);\n}\n// it’s — done\n";
    let cases = [
        (
            "let x = 1;",
            "let x = 2;",
            Stage::Exact,
            "fn a() {  \n    let x = 2;\n    go(x);\n}\n// it’s — done\n",
        ),
        (
            "fn a() {\n    let x = 1;\n",
            "fn b() {\n",
            Stage::TrailingSpace,
            "fn b() {\n    go(x);\n}\n// it’s — done\n",
        ),
        (
            "let x = 1;\ngo(x);",
            "let x = 1;\nif x > 0 {\n    go(x);\n}",
            Stage::Indentation,
            "fn a() {  \n    let x = 1;\n    if x > 0 {\n        go(x);\n    }\n}\n// it’s — done\n",
        ),
        (
            "        let x = 1;\n        go(x);\n",
            "        go(1);\n",
            Stage::Indentation,
            "fn a() {  \n    go(1);\n}\n// it’s — done\n",
        ),
        (
            "// it's - done",
            "// ok",
            Stage::Punctuation,
            "fn a() {  \n    let x = 1;\n    go(x);\n}\n// ok\n",
        ),
    ];
    for (old, new, stage, expected) in cases {
        assert_eq!(replace(text, old, new), Some((stage, expected.to_owned())), "{old:?}");
    }
    assert_eq!(replace(text, "let y = 1;", ""), None);
    assert_eq!(replace(text, " \n\n\t\n", "x"), None);
}

#[test]
fn tabs_and_spaces_are_mapped_line_by_line() {
    let text = "if x:\n\tif y:\n\t\tgo()\n";
    let (stage, new) = replace(
        text,
        "    if y:\n        go()\n",
        "    if y:\n        go()\n        stop()\n",
    )
    .unwrap();
    assert_eq!(
        (stage, new.as_str()),
        (Stage::Indentation, "if x:\n\tif y:\n\t\tgo()\n\t\tstop()\n")
    );
}

#[test]
fn a_last_line_without_its_end_is_found_and_stays_without() {
    assert_eq!(
        replace("a\nb", "b\n", "c\n"),
        Some((Stage::TrailingSpace, "a\nc".to_owned()))
    );
}

#[test]
fn a_long_text_without_a_long_pattern_is_searched_line_by_line() {
    // Every window fits but for its last line, in every stage.
    let text = "same\n".repeat(100_000);
    let old = format!("{}other\n", " same\n".repeat(8_000));
    assert_eq!(replace(&text, &old, "new"), None);
    // Every window fits, and the indentation contradicts itself only near its end.
    let ragged = format!("{}\tsame\n", "same\n".repeat(2_000)).repeat(10);
    let old = " same\n".repeat(2_500);
    assert!(matches!(replace(&ragged, &old, "new"), Some((Stage::Punctuation, _))));
}

#[test]
fn a_search_that_is_stopped_or_would_keep_too_much_is_given_up() {
    let text = "  a b\n".repeat(50_000);
    let looks = std::cell::Cell::new(0);
    let stop = || looks.replace(looks.get() + 1) == 3;
    assert_eq!(find(&text, "a b\nc\n", "x", &stop).err(), Some(GivenUp::Stopped));
    let new = "x".repeat(100_000);
    let found = find(&text, "\ta b\n", &new, &|| false);
    assert_eq!(found.err(), Some(GivenUp::TooMany));
}

#[test]
fn the_lines_of_many_places_are_counted_once() {
    assert_eq!(lines_of("a\nb\n\nc", [0, 1, 2, 5, 99]), [1, 1, 2, 4, 4]);
}

#[test]
fn the_nearest_lines_are_shown_with_their_numbers() {
    let text = "use a;\n\nfn total(items: &[u32]) -> u32 {\n    items.iter().sum()\n}\n";
    let shown = nearest(text, "fn total(items: Vec<u32>) -> u64 {\n    items.iter().sum()\n").unwrap();
    assert!(shown.contains("     3| fn total(items: &[u32]) -> u32 {"), "{shown}");
    assert_eq!(nearest(text, "zzzz qqqq"), None);
}

proptest! {
    #[test]
    fn any_line_of_a_text_is_found_and_replaced(lines in proptest::collection::vec("[ a-c’é]{0,8}", 1..12), pick in any::<prop::sample::Index>()) {
        let text = lines.join("\n");
        let old = lines[pick.index(lines.len())].clone();
        if old.is_empty() { return Ok(()); }
        let (_, matches) = find(&text, &old, "NEW", &|| false).unwrap().unwrap();
        let replaced = apply(&text, &matches);
        prop_assert_eq!(replaced.matches("NEW").count(), matches.len());
    }

    #[test]
    fn arbitrary_texts_never_break_the_search(text in any::<String>(), old in any::<String>(), new in any::<String>()) {
        if old.is_empty() { return Ok(()); }
        if let Ok(Some((_, matches))) = find(&text, &old, &new, &|| false) {
            prop_assert_eq!(size_after(&text, &matches), apply(&text, &matches).len());
        }
        nearest(&text, &old);
    }
}
