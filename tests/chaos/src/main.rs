//! The simulation as a command; the README has its options.

use std::process::ExitCode;

use setgate_chaos::{Options, run};

const USAGE: &str = "\
usage: setgate_chaos [--histories N] [--minutes N] [--seed N] [--threads N] [--twice N] [--may-miss] [--old-way]
       setgate_chaos --show N [--without 1,2,3]
       setgate_chaos --shrink N";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match options(&words).and_then(|options| run(&options, &say)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("setgate_chaos: {why}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the output is what the command is for")]
fn say(line: &str) {
    println!("{line}");
}

fn options(words: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let mut number = || -> Result<u64, String> {
            let value = rest.next().ok_or_else(|| format!("{word} needs a number\n{USAGE}"))?;
            value.parse().map_err(|_| format!("{word} needs a number, not `{value}`\n{USAGE}"))
        };
        match word.as_str() {
            "--histories" => options.histories = Some(number()?),
            "--minutes" => options.minutes = Some(number()?),
            "--seed" => options.seed = number()?,
            "--threads" => options.threads = usize::try_from(number()?).unwrap_or(1),
            "--twice" => options.twice = number()?,
            "--show" => options.show = Some(number()?),
            "--shrink" => options.shrink = Some(number()?),
            "--old-way" => options.old_way = true,
            "--may-miss" => options.may_miss = true,
            "--without" => {
                let list = rest.next().ok_or_else(|| format!("--without needs numbers\n{USAGE}"))?;
                let numbers = list.split(',').filter(|number| !number.is_empty()).map(str::parse);
                options.without = numbers.collect::<Result<_, _>>().map_err(|_| format!("not numbers: {list}"))?;
            }
            other => return Err(format!("no option `{other}`\n{USAGE}")),
        }
    }
    Ok(options)
}
