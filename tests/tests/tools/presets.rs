//! The presets for Go, Node.js and Python: a whole thread on a repository that has no gate file.

use schemas::Workload;
use schemas::shared::Verdict;

use crate::sample::Sample;
use crate::watch::ended;

/// A repository in one language, a change that its tests pass and one that they refuse.
struct Language {
    /// Files of the base.
    files: &'static [(&'static str, &'static str)],
    /// File that a coder writes.
    path: &'static str,
    good: &'static str,
    broken: &'static str,
    /// What the log of the broken change says of the test that failed.
    failure: &'static str,
}

async fn the_preset_judges(language: &Language) {
    let sample = Sample::new();
    sample.git(&["rm", "--quiet", ".foreman/gate.yaml"]);
    sample.commit(language.files);
    sample.record("good", 1, language.path, language.good);
    sample.record("broken", 1, language.path, language.broken);
    let up = sample.up();
    let client = up.client().await;
    let task = "---\nbudget: { rounds: 1 }\n---\nDouble it.\n";
    sample.commit(&[(".foreman/tasks/good.md", task), (".foreman/tasks/broken.md", task)]);

    let verdict = |workload: &Workload| workload.status.as_ref().and_then(|status| status.verdict);
    let logs = |task: &str| sample.call(&["logs", task]).out;
    let good = ended(&client, "good", 1).await;
    assert_eq!(
        verdict(&good),
        Some(Verdict::GatePass),
        "{:#?}\n{}",
        good.status,
        logs("good.md")
    );
    let broken = ended(&client, "broken", 1).await;
    let log = logs("broken.md");
    assert_eq!(verdict(&broken), Some(Verdict::GateFail), "{:#?}\n{log}", broken.status);
    // What the next round's coder would get is the end of the log.
    let tasks = kube::Api::<schemas::AgenticTask>::default_namespaced(client)
        .list(&Default::default())
        .await
        .unwrap();
    let said = serde_json::to_string(&tasks.items).unwrap();
    assert!(said.contains(language.failure), "{said}\n{log}");
}

#[tokio::test]
#[ignore = "needs Go"]
async fn the_preset_for_go_passes_a_good_change_and_names_the_test_that_a_broken_one_fails() {
    the_preset_judges(&Language {
        files: &[
            ("go.mod", "module example.com/double\n\ngo 1.19\n"),
            ("double.go", "package double\n\nfunc Double(n int) int { return n }\n"),
            (
                "double_test.go",
                "package double\n\nimport \"testing\"\n\nfunc TestDoubleOfTwo(t *testing.T) {\n\tif Double(2) != 4 {\n\t\tt.Fatal(\"not doubled\")\n\t}\n}\n",
            ),
        ],
        path: "double.go",
        good: "package double\n\nfunc Double(n int) int { return 2 * n }\n",
        broken: "package double\n\nfunc Double(n int) int { return 3 * n }\n",
        failure: "FAIL: TestDoubleOfTwo",
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Node.js and npm"]
async fn the_preset_for_node_passes_a_good_change_and_names_the_test_that_a_broken_one_fails() {
    the_preset_judges(&Language {
        files: &[
            (
                "package.json",
                "{ \"name\": \"double\", \"version\": \"1.0.0\", \"private\": true, \"scripts\": { \"test\": \"node --test\" } }\n",
            ),
            ("double.js", "exports.double = (n) => n;\n"),
            (
                "double.test.js",
                "const test = require('node:test');\nconst assert = require('node:assert');\nconst { double } = require('./double.js');\n\ntest('the double of two', () => assert.strictEqual(double(2), 4));\n",
            ),
        ],
        path: "double.js",
        good: "exports.double = (n) => 2 * n;\n",
        broken: "exports.double = (n) => 3 * n;\n",
        failure: "the double of two",
    })
    .await;
}

#[tokio::test]
#[ignore = "needs Python"]
async fn the_preset_for_python_passes_a_good_change_and_names_the_test_that_a_broken_one_fails() {
    the_preset_judges(&Language {
        files: &[
            ("pyproject.toml", "[project]\nname = \"double\"\nversion = \"1\"\n"),
            ("double.py", "def double(n):\n    return n\n"),
            (
                "test_double.py",
                "import unittest\n\nfrom double import double\n\n\nclass Doubling(unittest.TestCase):\n    def test_double_of_two(self):\n        self.assertEqual(double(2), 4)\n",
            ),
        ],
        path: "double.py",
        good: "def double(n):\n    return 2 * n\n",
        broken: "def double(n):\n    return 3 * n\n",
        failure: "test_double_of_two",
    })
    .await;
}
