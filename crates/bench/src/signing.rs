//! The shape of signing with a held key on all cores, beside a loop over the bare cryptographic library.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
        RsaKeyPair,
    },
};
use setgate_jose::{Algorithm, Key, RsaBits, Signer};

use crate::{
    Bench, BenchError, Figure, Promise, Shape, event,
    machine::cores,
    measure::{Clock, median, rate},
};

/// The number of rounds of both sides in turn, so that a disturbance meets both.
const ROUNDS: usize = 16;

/// Measures every algorithm of the plan.
///
/// # Errors
/// Fails if a key cannot be created or a signature fails.
pub(crate) fn measure(bench: &Bench<'_>) -> Result<Vec<Figure>, BenchError> {
    let lines = event::Maker::new("signing", 1).lines(1);
    let claims = event::claims(&lines, "https://idp.example.com")?.pop().unwrap_or_default();
    let round = bench.plan.scale.loop_time() / 16;
    let mut figures = Vec::new();
    for algorithm in &bench.plan.algorithms {
        bench.watch.step(&format!("{algorithm}, all cores"));
        let key =
            Key::generate(*algorithm, RsaBits::default()).map_err(|error| BenchError::Failed(error.to_string()))?;
        let bare = Arc::new(Bare::generate(*algorithm)?);
        // The library is given what the signer has to sign: the encoded header and payload.
        let token = sign(key.signer(), &claims)?;
        let input: Arc<[u8]> =
            token.get(..token.iter().rposition(|byte| *byte == b'.').unwrap_or_default()).unwrap_or_default().into();
        let claims: Arc<[u8]> = claims.as_slice().into();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (signer, payload) = (key.signer().clone(), claims.clone());
            ours.push(on_all_cores(&bench.clock, round, move || sign(&signer, &payload).map(|_| ()))?);
            let (bare, input) = (bare.clone(), input.clone());
            theirs.push(on_all_cores(&bench.clock, round, move || bare.sign(&input))?);
        }
        figures.push(
            Figure::new(
                Shape::Signing,
                format!("signing, {algorithm}, held key, all cores"),
                median(&mut ours),
                "SETs/s",
            )
            .beside("the bare library", median(&mut theirs), Some(Promise::AtLeast(0.9)))
            .note(format!(
                "payload of {} bytes, encoded and signed; the library signs the same {} bytes",
                claims.len(),
                input.len()
            )),
        );
    }
    Ok(figures)
}

fn sign(signer: &Signer, payload: &[u8]) -> Result<Vec<u8>, BenchError> {
    signer.sign(payload).map_err(|error| BenchError::Failed(error.to_string()))
}

/// A private key of the library itself.
enum Bare {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Bare {
    fn generate(algorithm: Algorithm) -> Result<Self, BenchError> {
        let failed = |_| BenchError::Failed(format!("no {algorithm} key can be made"));
        Ok(match algorithm {
            Algorithm::Rs256 => Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?, &RSA_PKCS1_SHA256),
            Algorithm::Ps256 => Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?, &RSA_PSS_SHA256),
            Algorithm::Es256 => Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?),
            Algorithm::EdDSA => Self::Ed(Ed25519KeyPair::generate().map_err(failed)?),
        })
    }

    fn sign(&self, input: &[u8]) -> Result<(), BenchError> {
        let failed = |_| BenchError::Failed("a signature failed".into());
        match self {
            Self::Rsa(pair, padding) => {
                let mut room = [0u8; 512];
                let room = room.get_mut(..pair.public_modulus_len()).unwrap_or_default();
                pair.sign(*padding, &SystemRandom::new(), input, room).map_err(failed)
            }
            Self::Ec(pair) => pair.sign(&SystemRandom::new(), input).map(|_| ()).map_err(failed),
            Self::Ed(pair) => pair.try_sign(input).map(|_| ()).map_err(failed),
        }
    }
}

/// Returns how often a second as many threads as there are cores do the work.
fn on_all_cores<W>(clock: &Clock, time: Duration, work: W) -> Result<f64, BenchError>
where
    W: Fn() -> Result<(), BenchError> + Clone + Send + 'static,
{
    let began = clock.now();
    let start = |at: usize| {
        let (clock, work) = (clock.clone(), work.clone());
        let run = move || {
            let mut done = 0u64;
            while clock.since(began) < time {
                for _ in 0..8 {
                    work()?;
                    done += 1;
                }
            }
            Ok::<_, BenchError>(done)
        };
        std::thread::Builder::new().name(format!("bench-sign-{at}")).spawn(run).map_err(BenchError::failed("no thread"))
    };
    let threads = (0..cores()).map(start).collect::<Result<Vec<_>, _>>()?;
    let mut done = 0;
    for thread in threads {
        done += thread.join().map_err(|_| BenchError::Failed("a thread broke".into()))??;
    }
    Ok(rate(done, clock.since(began)))
}
