//! As much of Prometheus' query language as alerts and dashboard use; all else is an error.

/// One selector of an expression: a metric, the labels that it asks for, and those that it is grouped by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    /// Name of the series.
    pub metric: String,
    /// Labels between braces.
    pub matched: Vec<String>,
    /// Labels of the `by` around it.
    pub grouped: Vec<String>,
    /// Functions around it, the innermost first.
    pub within: Vec<String>,
    /// Whether it has a range, such as `[5m]`.
    pub ranged: bool,
}

const FUNCTIONS: [&str; 6] = ["rate", "increase", "histogram_quantile", "vector", "sum", "max"];
const AGGREGATIONS: [&str; 3] = ["sum", "max", "min"];

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
    found: Vec<Selector>,
}

/// Reads an expression; returns its selectors.
pub fn parse(text: &str) -> Result<Vec<Selector>, String> {
    let token = regex::Regex::new(
        r#"\s*([a-zA-Z_:][a-zA-Z0-9_:]*|"[^"]*"|\[[0-9]+[smhd]\]|[0-9]+(?:\.[0-9]+)?|==|!=|>=|<=|=~|[-+*/(){},=<>])"#,
    )
    .unwrap();
    let mut tokens = Vec::new();
    let mut rest = text.trim_end();
    while !rest.is_empty() {
        let found = token.captures(rest).filter(|found| found.get(0).unwrap().start() == 0);
        let found = found.ok_or_else(|| format!("{rest:?} is nothing that is known here"))?;
        tokens.push(found.get(1).unwrap().as_str());
        rest = &rest[found.get(0).unwrap().end()..];
    }
    let mut parser = Parser {
        tokens,
        at: 0,
        found: Vec::new(),
    };
    parser.expression()?;
    match parser.peek() {
        "" => Ok(parser.found),
        more => Err(format!("{more:?} follows the end of the expression")),
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn expect(&mut self, wanted: &str) -> Result<(), String> {
        match self.next() {
            found if found == wanted => Ok(()),
            found => Err(format!("found {found:?}, expected {wanted:?}")),
        }
    }

    fn expression(&mut self) -> Result<(), String> {
        self.operand()?;
        while [
            "+", "-", "*", "/", "==", "!=", ">", "<", ">=", "<=", "or", "and", "unless",
        ]
        .contains(&self.peek())
        {
            self.next();
            self.operand()?;
        }
        Ok(())
    }

    fn operand(&mut self) -> Result<(), String> {
        let token = self.next();
        if token == "(" {
            self.expression()?;
            return self.expect(")");
        }
        if token.parse::<f64>().is_ok() {
            return Ok(());
        }
        let follows = self.peek();
        if AGGREGATIONS.contains(&token) && (follows == "by" || follows == "(") {
            let mut by = Vec::new();
            if follows == "by" {
                self.next();
                by = self.names()?;
            }
            let first = self.found.len();
            self.expect("(")?;
            self.expression()?;
            self.expect(")")?;
            for selector in &mut self.found[first..] {
                selector.grouped.extend(by.iter().cloned());
                selector.within.push(token.to_owned());
            }
            return Ok(());
        }
        if follows == "(" {
            if !FUNCTIONS.contains(&token) {
                return Err(format!("{token:?} is no function that is known here"));
            }
            let first = self.found.len();
            self.expect("(")?;
            self.expression()?;
            while self.peek() == "," {
                self.next();
                self.expression()?;
            }
            self.expect(")")?;
            for selector in &mut self.found[first..] {
                selector.within.push(token.to_owned());
            }
            return Ok(());
        }
        self.selector(token)
    }

    fn selector(&mut self, metric: &str) -> Result<(), String> {
        if !metric.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(format!("found {metric:?}, expected a metric"));
        }
        let mut selector = Selector {
            metric: metric.to_owned(),
            ..Selector::default()
        };
        if self.peek() == "{" {
            self.next();
            while self.peek() != "}" {
                selector.matched.push(self.next().to_owned());
                let operator = self.next();
                if !["=", "!=", "=~"].contains(&operator) {
                    return Err(format!("found {operator:?}, expected a comparison with a label"));
                }
                let value = self.next();
                if !value.starts_with('"') {
                    return Err(format!("found {value:?}, expected a label's value"));
                }
                if self.peek() == "," {
                    self.next();
                }
            }
            self.expect("}")?;
        }
        if self.peek().starts_with('[') {
            self.next();
            selector.ranged = true;
        }
        self.found.push(selector);
        Ok(())
    }

    fn names(&mut self) -> Result<Vec<String>, String> {
        self.expect("(")?;
        let mut names = Vec::new();
        while self.peek() != ")" {
            names.push(self.next().to_owned());
            if self.peek() == "," {
                self.next();
            }
        }
        self.expect(")")?;
        Ok(names)
    }
}

#[test]
fn an_expression_is_read_to_its_end_or_refused() {
    let found =
        parse("histogram_quantile(0.5, sum by (le, agent) (rate(a_seconds_bucket{x=\"1\",y!=\"2\"}[10m]))) > 0.1")
            .unwrap();
    let expected = Selector {
        metric: "a_seconds_bucket".into(),
        matched: vec!["x".into(), "y".into()],
        grouped: vec!["le".into(), "agent".into()],
        within: vec!["rate".into(), "sum".into(), "histogram_quantile".into()],
        ranged: true,
    };
    assert_eq!(found, [expected]);
    assert_eq!(parse("(sum(a) or vector(0)) == 0").unwrap().len(), 1);
    for wrong in [
        "sum(a",
        "sum(a))",
        "rote(a[5m])",
        "a{b=}",
        "a{b=\"c}",
        "a[5x]",
        "a >",
        "sum by a (b)",
        "a b",
        "",
    ] {
        assert!(parse(wrong).is_err(), "{wrong:?}");
    }
}
