use std::{fs, sync::Barrier, thread};

use super::*;
use crate::identity::{
    LoadedIdentity,
    ca::{IssueRequest, OnExisting},
    join::{NewIdentity, PendingIdentity},
};

struct World {
    root: tempfile::TempDir,
}

fn start() -> When {
    When::from_unix_s(1_767_225_600)
}

fn after(seconds: u64) -> When {
    start().after(Duration::from_secs(seconds))
}

fn peer(name: &str) -> PeerName {
    name.parse().unwrap()
}

impl World {
    fn new() -> Self {
        let world = Self { root: tempfile::tempdir().unwrap() };
        Ca::init(&world.ca(), 3650, start()).unwrap();
        world
    }

    fn ca(&self) -> PathBuf {
        self.root.path().join("ca")
    }

    fn request(name: &str) -> TokenRequest {
        let address = "ca.example:8551".parse().unwrap();
        TokenRequest { name: peer(name), address, days: 30, ttl: MAX_TOKEN_TTL, renew: false }
    }

    fn token(&self, name: &str) -> JoinToken {
        Ca::token(&self.ca(), &Self::request(name), start()).unwrap().token.parse().unwrap()
    }

    fn pending(&self, token: &JoinToken) -> (EnrolClaim, PendingIdentity) {
        let dir = tempfile::tempdir_in(self.root.path()).unwrap().keep();
        let pending = PendingIdentity::prepare(&dir.join("pki"), token, false).unwrap();
        let claim = EnrolClaim {
            id: token.id,
            secret: token.secret.clone(),
            name: token.name.clone(),
            csr: pending.csr().to_vec(),
        };
        (claim, pending)
    }

    fn enrol(&self, claim: &EnrolClaim, now: When) -> Result<Enrolled, EnrolRefusal> {
        Ca::enrol(&self.ca(), claim, None, now)
    }

    fn issued(&self) -> usize {
        Ca::list(&self.ca(), start()).unwrap().certificates.len()
    }
}

fn new_identity(enrolled: Enrolled) -> NewIdentity {
    NewIdentity { cert_pem: enrolled.cert_pem, ca_pem: enrolled.ca_pem, crl_pem: enrolled.crl_pem }
}

#[test]
fn a_token_becomes_an_identity_once() {
    let world = World::new();
    let made = Ca::token(&world.ca(), &World::request("east"), start()).unwrap();
    let token: JoinToken = made.token.parse().unwrap();
    assert_eq!((&token.name, token.expires, made.expires), (&peer("east"), after(600), after(600)));
    assert_eq!(hex::encode(token.ca_fingerprint), made.ca_fingerprint_sha256);
    let stored = fs::read_to_string(world.ca().join("tokens.json")).unwrap();
    assert!(!stored.contains(&hex::encode(token.secret.0)), "the secret itself is kept");
    assert!(stored.contains(&hex::encode(sha256(&token.secret.0))));

    let (claim, pending) = world.pending(&token);
    let enrolled = world.enrol(&claim, after(599)).unwrap();
    assert_eq!(enrolled.valid_until, after(599).after(Duration::from_secs(30 * 86_400)));
    let joined = pending.install(&new_identity(enrolled.clone())).unwrap();
    let loaded = LoadedIdentity::read(&joined.identity_dir).unwrap();
    assert_eq!((loaded.own.name, loaded.own.serial), (peer("east"), enrolled.serial.clone()));
    // Nothing else is left there, the key least of all.
    assert_eq!(fs::read_dir(&joined.identity_dir).unwrap().count(), 4);

    // It is listed, and can be revoked, as if `ca issue` had made it.
    assert_eq!(Ca::list(&world.ca(), after(600)).unwrap().certificates[0].serial, enrolled.serial);
    assert_eq!(Ca::revoke(&world.ca(), &peer("east"), after(600)).unwrap().revoked, [enrolled.serial]);

    let again = world.enrol(&claim, after(599)).expect_err("it was used");
    assert!(matches!(again, EnrolRefusal::Used(at) if at == after(599)), "{again}");
    assert_eq!(world.issued(), 1);
}

#[test]
fn a_token_ends_after_ten_minutes_by_the_clock_of_the_authority() {
    let world = World::new();
    let token = world.token("east");
    let (claim, _pending) = world.pending(&token);
    assert!(Ca::expects_joins(&world.ca(), after(599)).unwrap());
    assert!(!Ca::expects_joins(&world.ca(), after(600)).unwrap());
    let late = world.enrol(&claim, after(600)).expect_err("it is late");
    assert!(matches!(late, EnrolRefusal::Expired(at) if at == after(600)), "{late}");
    for (ttl, good) in [(0, false), (1, true), (600, true), (601, false)] {
        let request = TokenRequest { ttl: Duration::from_secs(ttl), ..World::request("west") };
        assert_eq!(Ca::token(&world.ca(), &request, start()).is_ok(), good, "{ttl} s");
    }
    assert_eq!(world.issued(), 0);
    // Forgotten after a day.
    let _ = Ca::token(&world.ca(), &World::request("north"), after(600 + 86_401)).unwrap();
    assert!(matches!(world.enrol(&claim, after(600)), Err(EnrolRefusal::Unknown)));
}

#[test]
fn ten_wrong_secrets_kill_a_token() {
    let world = World::new();
    let token = world.token("east");
    let (claim, _pending) = world.pending(&token);
    let mut wrong = claim.clone();
    wrong.secret.0[19] ^= 1;
    for n in 0..10 {
        assert!(matches!(world.enrol(&wrong, start()), Err(EnrolRefusal::WrongSecret)), "try {n}");
    }
    assert!(matches!(world.enrol(&wrong, start()), Err(EnrolRefusal::TooManyWrong)));
    assert!(matches!(world.enrol(&claim, start()), Err(EnrolRefusal::TooManyWrong)));
    assert!(!Ca::token_is_open(&world.ca(), token.id, start()).unwrap());
    // Nine do not, and another token does not suffer.
    let token = world.token("west");
    let (claim, _pending) = world.pending(&token);
    for _ in 0..9 {
        let wrong = EnrolClaim { secret: TokenSecret([0; 20]), ..claim.clone() };
        assert!(matches!(world.enrol(&wrong, start()), Err(EnrolRefusal::WrongSecret)));
    }
    let unknown = EnrolClaim { id: TokenId([0; 8]), ..claim.clone() };
    assert!(matches!(world.enrol(&unknown, start()), Err(EnrolRefusal::Unknown)));
    world.enrol(&claim, start()).unwrap();
}

#[test]
fn a_token_is_for_its_name_and_its_key_alone() {
    let world = World::new();
    let token = world.token("east");
    let (claim, _pending) = world.pending(&token);
    let other = EnrolClaim { name: peer("west"), ..claim.clone() };
    assert!(matches!(world.enrol(&other, start()), Err(EnrolRefusal::WrongName(_))));
    // The name in the signing request counts as well, and so does its signature.
    let (west, _pending) = world.pending(&JoinToken { name: peer("west"), ..token.clone() });
    let other = EnrolClaim { csr: west.csr, ..claim.clone() };
    let refusal = world.enrol(&other, start()).expect_err("it names west");
    assert!(refusal.to_string().contains("names zmigrate://node/west"), "{refusal}");
    let mut damaged = claim.clone();
    let last = damaged.csr.len() - 1;
    damaged.csr[last] ^= 1;
    for csr in [damaged.csr, vec![], b"junk".to_vec(), vec![0x30; 16_000]] {
        let bad = EnrolClaim { csr, ..claim.clone() };
        assert!(matches!(world.enrol(&bad, start()), Err(EnrolRefusal::BadRequest(_))));
    }
    // None of that cost the token anything.
    world.enrol(&claim, start()).unwrap();
}

#[test]
fn what_a_signing_request_wants_beyond_its_key_is_not_given() {
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    };
    let world = World::new();
    let token = world.token("east");
    let (claim, _pending) = world.pending(&token);
    let uri = |name: &str| SanType::URI(name.try_into().unwrap());
    let mut greedy = CertificateParams::default();
    greedy.subject_alt_names = vec![uri("zmigrate://node/east")];
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let key = KeyPair::generate().unwrap();
    let csr = |params: &CertificateParams| params.serialize_request(&key).unwrap().der().to_vec();
    let mut two = CertificateParams::default();
    two.subject_alt_names = vec![uri("zmigrate://node/east"), uri("zmigrate://node/west")];
    let bad = EnrolClaim { csr: csr(&two), ..claim.clone() };
    assert!(matches!(world.enrol(&bad, start()), Err(EnrolRefusal::BadRequest(_))));
    let other_curve = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    two.subject_alt_names = greedy.subject_alt_names.clone();
    let bad = two.serialize_request(&other_curve).unwrap().der().to_vec();
    assert!(matches!(
        world.enrol(&EnrolClaim { csr: bad, ..claim.clone() }, start()),
        Err(EnrolRefusal::BadRequest(_))
    ));

    let enrolled = world.enrol(&EnrolClaim { csr: csr(&greedy), ..claim }, start()).unwrap();
    use rustls_pki_types::pem::PemObject;
    use x509_parser::prelude::{FromDer, X509Certificate};
    let der = CertificateDer::from_pem_slice(enrolled.cert_pem.as_bytes()).unwrap();
    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    assert!(!cert.is_ca() && !cert.key_usage().unwrap().unwrap().value.key_cert_sign());
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.code_signing);
}

#[test]
fn a_name_that_is_taken_needs_consent() {
    let world = World::new();
    let out = world.root.path().join("out");
    let issue = IssueRequest { name: peer("east"), out_dir: out, days: 100, on_existing: OnExisting::Refuse };
    let token = world.token("east");
    let (claim, _pending) = world.pending(&token);
    Ca::issue(&world.ca(), &issue, start()).unwrap();
    // Issued between the making of the token and its use.
    assert!(matches!(world.enrol(&claim, start()), Err(EnrolRefusal::NameTaken { .. })));
    let error = Ca::token(&world.ca(), &World::request("east"), start()).err().unwrap();
    assert!(error.hint().unwrap().contains("--renew"), "{error}");
    let renew = TokenRequest { renew: true, ..World::request("east") };
    let token: JoinToken = Ca::token(&world.ca(), &renew, start()).unwrap().token.parse().unwrap();
    world.enrol(&world.pending(&token).0, start()).unwrap();
    // A revoked name is free again.
    Ca::revoke(&world.ca(), &peer("east"), start()).unwrap();
    let token = world.token("east");
    world.enrol(&world.pending(&token).0, start()).unwrap();
}

#[test]
fn a_later_token_replaces_an_earlier_one_of_its_name() {
    let world = World::new();
    let (first, other) = (world.token("east"), world.token("west"));
    let second = Ca::token(&world.ca(), &World::request("east"), start()).unwrap();
    assert!(second.replaces_older);
    assert!(matches!(world.enrol(&world.pending(&first).0, start()), Err(EnrolRefusal::Replaced)));
    world.enrol(&world.pending(&other).0, start()).unwrap();
    world.enrol(&world.pending(&second.token.parse().unwrap()).0, start()).unwrap();
}

#[test]
fn a_crash_after_the_token_is_spent_leaves_it_spent() {
    let world = World::new();
    let token = world.token("east");
    let (claim, _pending) = world.pending(&token);
    let ca = Ca::open(&world.ca()).unwrap();
    ca.spend(&claim, start(), |_, _| Ok(())).unwrap();
    drop(ca); // and no certificate
    assert!(matches!(world.enrol(&claim, start()), Err(EnrolRefusal::Used(_))));
    assert_eq!(world.issued(), 0);
}

#[test]
fn of_many_who_use_one_token_at_once_one_gets_in() {
    let world = World::new();
    let token = world.token("east");
    let claims: Vec<EnrolClaim> = (0..8).map(|_| world.pending(&token).0).collect();
    let barrier = Barrier::new(claims.len());
    let won: usize = thread::scope(|scope| {
        let tries: Vec<_> = claims
            .iter()
            .map(|claim| {
                scope.spawn(|| {
                    barrier.wait();
                    usize::from(world.enrol(claim, start()).is_ok())
                })
            })
            .collect();
        tries.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!((won, world.issued()), (1, 1));
}

#[test]
fn an_answer_that_is_not_the_one_asked_for_is_not_put_in_place() {
    let world = World::new();
    let (east, west) = (world.token("east"), world.token("west"));
    let (claim, pending) = world.pending(&east);
    let other = world.enrol(&world.pending(&west).0, start()).unwrap();
    let good = world.enrol(&claim, start()).unwrap();
    // The certificate of another key.
    let dir = world.root.path().join("n");
    let error = PendingIdentity::prepare(&dir, &east, false).unwrap().install(&new_identity(other)).unwrap_err();
    assert!(matches!(error, IdentityError::BadAnswer { .. }), "{error}");
    // Another authority than the token's, whole in itself.
    let second = World::new();
    let foreign = second.token("east");
    let (claim, foreign_pending) = second.pending(&foreign);
    let answer = new_identity(second.enrol(&claim, start()).unwrap());
    let posing = PendingIdentity::prepare(&dir, &east, false).unwrap().install(&answer).unwrap_err();
    assert!(matches!(posing, IdentityError::BadAnswer { .. }), "{posing}");
    foreign_pending.install(&answer).unwrap();
    // Nothing of it is left; and what is there is not overwritten unless told.
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    let joined = pending.install(&new_identity(good)).unwrap();
    let error = PendingIdentity::prepare(&joined.identity_dir, &east, false).unwrap_err();
    assert!(matches!(error, IdentityError::HasIdentity { .. }), "{error}");
    PendingIdentity::prepare(&joined.identity_dir, &east, true).unwrap();
}

#[test]
fn the_authoritys_list_is_taken_over_and_those_of_others_stay() {
    let world = World::new();
    let out = world.root.path().join("out");
    let issue = |ca: &Path, name: &str, on_existing| {
        let request = IssueRequest { name: peer(name), out_dir: out.clone(), days: 100, on_existing };
        Ca::issue(ca, &request, start()).unwrap()
    };
    let old = world.root.path().join("old");
    Ca::init(&old, 3650, start()).unwrap();
    issue(&old, "west", OnExisting::Refuse);
    issue(&world.ca(), "west", OnExisting::Renew);
    assert!(!Ca::publish_crl(&world.ca(), &out).unwrap(), "it is there already");
    let token = world.token("east");
    let east = world.enrol(&world.pending(&token).0, start()).unwrap();
    Ca::revoke(&world.ca(), &peer("east"), start()).unwrap();
    assert!(Ca::publish_crl(&world.ca(), &out).unwrap());
    let loaded = LoadedIdentity::read(&out).unwrap();
    assert!(loaded.trust.is_revoked(&east.serial));
    assert!(loaded.trust.cas().len() == 2 && loaded.trust.cas().iter().all(|ca| ca.has_crl));
    assert!(!Ca::publish_crl(&world.ca(), &out).unwrap());
    // A node that joins now gets both CAs.
    let token = world.token("north");
    let (claim, pending) = world.pending(&token);
    let joined = pending.install(&new_identity(Ca::enrol(&world.ca(), &claim, Some(&out), start()).unwrap())).unwrap();
    assert_eq!(LoadedIdentity::read(&joined.identity_dir).unwrap().trust.cas().len(), 2);
}
