//! Measuring what was asked for by name, or all.

/// One measurement.
pub type Measure = fn(&tokio::runtime::Runtime);

/// Runs the measurements that `asked` names, or all where it names none.
pub fn measure(all: &[(&str, Measure)], asked: &[String], runtime: &tokio::runtime::Runtime) {
    for name in asked {
        assert!(
            all.iter().any(|(known, _)| known == name),
            "there is no measurement {name:?}"
        );
    }
    for (name, measure) in all {
        if asked.is_empty() || asked.iter().any(|wanted| wanted == name) {
            println!("\n{name}");
            measure(runtime);
        }
    }
}
