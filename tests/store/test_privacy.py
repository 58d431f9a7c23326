from gated.store.privacy import Secrets

SECRETS = Secrets(b"1" * 32)
OTHERS = Secrets(b"2" * 32)


def test_a_digest_is_the_same_at_one_gate_and_another_at_every_other():
    assert SECRETS.digest("T1") == SECRETS.digest("T1") != SECRETS.digest("T2")
    assert SECRETS.digest("T1") != OTHERS.digest("T1")
    assert len(SECRETS.digest("T1")) == 16


def test_a_sealed_barcode_id_opens_with_its_external_id_alone():
    sealed = SECRETS.seal("T1", "X1")
    assert SECRETS.unseal(sealed, "X1") == "T1"
    assert SECRETS.unseal(sealed, "X2") is None
    assert OTHERS.unseal(sealed, "X1") is None


def test_a_seal_that_was_cut_or_changed_does_not_open():
    sealed = SECRETS.seal("T1", "X1")
    for spoilt in (b"", sealed[:5], sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1])):
        assert SECRETS.unseal(spoilt, "X1") is None


def test_two_seals_of_one_barcode_id_have_nothing_in_common():
    first, second = SECRETS.seal("T1", "X1"), SECRETS.seal("T1", "X1")
    assert first != second
