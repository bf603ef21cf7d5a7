//! How this test binary is started as another program: `fixture::plays_its_part` plays the part that is named.

/// The variable that names the part.
pub const PART: &str = "FOREMAN_FIXTURE";

/// Returns the command line (after the program) and environment of a part.
pub fn part(name: &str) -> ([&'static str; 3], (&'static str, String)) {
    let args = ["--exact", "fixture::plays_its_part", "--nocapture"];
    (args, (PART, name.to_owned()))
}
