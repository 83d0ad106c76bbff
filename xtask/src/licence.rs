//! Licence expressions (SPDX), and whether one of their alternatives is allowed throughout.

use anyhow::{Result, bail};

/// Returns whether `expression` can be met with the licences of `allowed` alone.
///
/// The slash of old manifests (`MIT/Apache-2.0`) reads as `OR`, as in cargo.
///
/// # Errors
/// Returns an error when the expression is not well formed.
pub(crate) fn permits(expression: &str, allowed: &[String]) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allowed };
    let answer = parser.any()?;
    if !parser.words.is_empty() {
        bail!("`{expression}` is no licence expression");
    }
    Ok(answer)
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Parser<'_> {
    fn any(&mut self) -> Result<bool> {
        let mut answer = self.all()?;
        while self.eat("OR") {
            answer |= self.all()?;
        }
        Ok(answer)
    }

    fn all(&mut self) -> Result<bool> {
        let mut answer = self.one()?;
        while self.eat("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool> {
        if self.eat("(") {
            let answer = self.any()?;
            if !self.eat(")") {
                bail!("a bracket is not closed");
            }
            return Ok(answer);
        }
        let Some((name, rest)) = self.words.split_first() else { bail!("a licence is missing") };
        if matches!(*name, "OR" | "AND" | "WITH" | ")") {
            bail!("`{name}` stands where a licence is expected");
        }
        self.words = rest;
        let mut name = (*name).to_owned();
        if self.eat("WITH") {
            let Some((exception, rest)) = self.words.split_first() else { bail!("an exception is missing") };
            self.words = rest;
            name = format!("{name} WITH {exception}");
        }
        Ok(self.allowed.contains(&name))
    }

    fn eat(&mut self, word: &str) -> bool {
        match self.words.split_first() {
            Some((first, rest)) if *first == word => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::permits;

    fn permitted(expression: &str) -> bool {
        permits(expression, &["MIT".to_owned(), "ISC".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()]).unwrap()
    }

    #[test]
    fn takes_one_allowed_alternative() {
        assert!(permitted("MIT OR GPL-3.0"));
        assert!(permitted("GPL-3.0/MIT"));
        assert!(!permitted("GPL-3.0 OR AGPL-3.0"));
    }

    #[test]
    fn wants_every_member_of_a_conjunction() {
        assert!(permitted("MIT AND ISC"));
        assert!(!permitted("MIT AND GPL-3.0"));
        assert!(permitted("ISC AND (GPL-3.0 OR MIT)"));
        assert!(!permitted("(ISC OR MIT) AND GPL-3.0"));
    }

    #[test]
    fn reads_an_exception_as_part_of_the_name() {
        assert!(permitted("Apache-2.0 WITH LLVM-exception"));
        assert!(!permitted("Apache-2.0"));
    }

    #[test]
    fn refuses_what_is_no_expression() {
        for wrong in ["", "MIT OR", "MIT ISC", "(MIT", "AND MIT", "MIT WITH"] {
            assert!(permits(wrong, &["MIT".to_owned()]).is_err(), "{wrong}");
        }
    }
}
