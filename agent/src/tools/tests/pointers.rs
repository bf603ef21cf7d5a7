//! Git LFS pointers.

use super::*;
use crate::tools::pointer::tests::pointer;

#[tokio::test]
async fn a_pointer_is_named_as_one_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    std::fs::write(folder.path().join("tree/logo.svg"), pointer(48_211)).unwrap();
    let read = run(&toolbox, "read_file", json!({"path": "logo.svg"})).await;
    assert!(
        read.content.contains("logo.svg is a Git LFS pointer") && read.content.contains("48211 bytes"),
        "{}",
        read.content
    );
    assert!(read.content.contains("     3| size 48211"), "{}", read.content);
}

#[tokio::test]
async fn content_does_not_take_the_place_of_a_pointer() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = toolbox(folder.path(), false);
    let at = |name: &str| folder.path().join("tree").join(name);
    std::fs::write(at("logo.svg"), pointer(48_211)).unwrap();
    let patch =
        "*** Begin Patch\n*** Add File: new\n+x\n*** Update File: logo.svg\n@@\n-size 48211\n+<svg/>\n*** End Patch";
    let anew = "*** Begin Patch\n*** Delete File: logo.svg\n*** Add File: logo.svg\n+<svg/>\n*** End Patch";
    for (tool, arguments) in [
        ("write_file", json!({"path": "logo.svg", "content": "<svg/>"})),
        ("write_file", json!({"path": "./logo.svg", "content": ""})),
        (
            "str_replace",
            json!({"path": "logo.svg", "old_string": "size 48211", "new_string": "<svg/>"}),
        ),
        ("apply_patch", json!({"patch": patch})),
        ("apply_patch", json!({"patch": anew})),
    ] {
        let result = run(&toolbox, tool, arguments).await;
        assert_eq!(result.outcome, Outcome::Refused, "{tool}: {}", result.content);
        assert!(
            result.content.contains("it is a Git LFS pointer") && result.content.contains("48211 bytes"),
            "{}",
            result.content
        );
    }
    assert_eq!(std::fs::read_to_string(at("logo.svg")).unwrap(), pointer(48_211));
    assert!(!at("new").exists(), "a patch is applied whole or not at all");
    let moved = "*** Begin Patch\n*** Update File: logo.svg\n*** Move to: img/logo.svg\n*** End Patch";
    assert_eq!(
        run(&toolbox, "apply_patch", json!({"patch": moved})).await.outcome,
        Outcome::Done
    );
    let other = json!({"path": "img/logo.svg", "content": pointer(7)});
    assert_eq!(run(&toolbox, "write_file", other).await.outcome, Outcome::Done);
    let gone = "*** Begin Patch\n*** Delete File: img/logo.svg\n*** End Patch";
    assert_eq!(
        run(&toolbox, "apply_patch", json!({"patch": gone})).await.outcome,
        Outcome::Done
    );
}
