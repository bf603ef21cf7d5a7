//! The preset for Go.

use super::{BaseTree, Parts, prepare, text};

const HOSTS: &[&str] = &["proxy.golang.org", "sum.golang.org"];
const VET: &str = "go vet ./...";
/// Without a stamp of the version: to find one, Go starts whatever version control the tree seems to be under, and
/// Mercurial runs what the tree's own settings name.
const BUILD: &str = "go build -buildvcs=false ./...";
/// Commands that compile what the branch holds, and run nothing of it.
pub(super) const COMPILES_ONLY: &[&str] = &[VET, BUILD];

pub(super) fn parts(tree: &dyn BaseTree) -> Parts {
    let requires =
        text(tree, "go.mod").is_none_or(|module| module.lines().any(|line| line.trim_start().starts_with("require")));
    let vendored = tree.exists("vendor/modules.txt");
    Parts {
        prepare: (requires && !vendored).then(|| prepare("go mod download", HOSTS)),
        format: Some(
            "unformatted=$(gofmt -l $(git ls-files '*.go' 2>/dev/null || find . -name '*.go' -not -path './vendor/*')) && \
             if [ -n \"$unformatted\" ]; then echo \"not formatted:\"; echo \"$unformatted\"; exit 1; fi"
                .to_owned(),
        ),
        lint: Some(VET.to_owned()),
        build: Some(BUILD.to_owned()),
        test: Some("go test ./...".to_owned()),
        ..Parts::default()
    }
}
