"""What encrypting secrets promises: only the right key, tenant and name open them, and nothing changed opens."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloacina.secrets.envelope import KeyEncryptionKeyError, Keyring, SecretUnreadable, keyring_from, parse_key
from services.reconciler.settings import ReconcilerSettings

ONE, TWO = bytes(range(32)), bytes(range(1, 33))
FIELDS = {"user": "u", "password": "p4ssw0rd"}
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(_TEXT, _TEXT), _TEXT, _TEXT)
def test_what_is_sealed_opens_for_the_same_tenant_and_name(fields: dict[str, str], tenant: str, name: str) -> None:
    keyring = Keyring(ONE)
    assert keyring.open(tenant, name, keyring.seal(tenant, name, fields)) == fields


def test_nothing_of_the_values_is_in_what_is_stored_and_no_two_seals_are_alike() -> None:
    first, second = Keyring(ONE).seal("acme", "db", FIELDS), Keyring(ONE).seal("acme", "db", FIELDS)
    assert b"p4ssw0rd" not in first.ciphertext
    assert b"password" not in first.ciphertext
    assert first.ciphertext != second.ciphertext
    assert first.data_key != second.data_key
    assert len(first.data_key) == 12 + 32 + 16


@given(st.data())
def test_a_changed_bit_anywhere_is_found(data: st.DataObject) -> None:
    keyring = Keyring(ONE)
    sealed = keyring.seal("acme", "db", FIELDS)
    part = data.draw(st.sampled_from(["ciphertext", "data_key"]))
    stored = bytearray(getattr(sealed, part))
    bit = data.draw(st.integers(0, len(stored) * 8 - 1))
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SecretUnreadable, match="is not what was encrypted"):
        keyring.open("acme", "db", replace(sealed, **{part: bytes(stored)}))


@given(st.integers(0, 59), st.sampled_from(["ciphertext", "data_key"]))
def test_what_is_cut_short_does_not_open(length: int, part: str) -> None:
    keyring = Keyring(ONE)
    sealed = keyring.seal("acme", "db", FIELDS)
    with pytest.raises(SecretUnreadable):
        keyring.open("acme", "db", replace(sealed, **{part: getattr(sealed, part)[:length]}))


@pytest.mark.parametrize(("tenant", "name"), [("other", "db"), ("acme", "db2"), ("acme ", "db"), ("acmed", "b")])
def test_a_row_that_was_copied_to_another_tenant_or_name_does_not_open(tenant: str, name: str) -> None:
    keyring = Keyring(ONE)
    sealed = keyring.seal("acme", "db", FIELDS)
    with pytest.raises(SecretUnreadable, match="is not what was encrypted"):
        keyring.open(tenant, name, sealed)
    with pytest.raises(SecretUnreadable):
        keyring.rewrap(tenant, name, sealed)


def test_the_parts_of_two_secrets_do_not_mix() -> None:
    keyring = Keyring(ONE)
    one, two = keyring.seal("acme", "db", FIELDS), keyring.seal("acme", "db", FIELDS)
    with pytest.raises(SecretUnreadable):
        keyring.open("acme", "db", replace(one, data_key=two.data_key))


def test_another_key_does_not_open_and_is_named() -> None:
    sealed = Keyring(ONE).seal("acme", "db", FIELDS)
    with pytest.raises(SecretUnreadable, match=sealed.kek_id):
        Keyring(TWO).open("acme", "db", sealed)
    with pytest.raises(SecretUnreadable):  # nor with its name forged
        Keyring(TWO).open("acme", "db", replace(sealed, kek_id=Keyring(TWO).current_id))


def test_a_former_key_opens_and_the_current_one_seals() -> None:
    old = Keyring(ONE).seal("acme", "db", FIELDS)
    both = Keyring(TWO, [ONE])
    assert both.open("acme", "db", old) == FIELDS
    assert both.seal("acme", "db", FIELDS).kek_id == Keyring(TWO).current_id
    rewrapped = both.rewrap("acme", "db", old)
    assert rewrapped.ciphertext == old.ciphertext
    assert Keyring(TWO).open("acme", "db", rewrapped) == FIELDS
    with pytest.raises(SecretUnreadable):
        Keyring(ONE).open("acme", "db", rewrapped)


def test_a_keyring_shows_no_key() -> None:
    shown = repr(Keyring(ONE, [TWO]))
    for form in (ONE.hex(), base64.b64encode(ONE).decode(), repr(ONE)):
        assert form not in shown


# Where keys come from


@pytest.mark.parametrize(
    "text", [base64.b64encode(ONE).decode(), ONE.hex(), ONE.hex().upper(), f" {ONE.hex()}\n", "00" * 32]
)
def test_a_key_is_base64_or_hex(text: str) -> None:
    assert len(parse_key(text, "V")) == 32


@pytest.mark.parametrize(
    "text",
    ["", "short", base64.b64encode(bytes(16)).decode(), "0" * 63, "0" * 66, base64.b64encode(bytes(33)).decode(), "é"],
)
def test_anything_else_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(KeyEncryptionKeyError, match=r"VARIABLE must be base64 or hex of exactly 32 bytes") as refused:
        parse_key(text, "VARIABLE")
    assert not text or text not in refused.value.message


def _settings(tmp_path: Path, **knobs: object) -> ReconcilerSettings:
    return ReconcilerSettings(home=tmp_path, **knobs)


def test_settings_without_a_key_mean_no_secrets(tmp_path: Path) -> None:
    assert keyring_from(_settings(tmp_path)) is None


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "kek"
    file.write_text(ONE.hex() + "\n")
    keyring = keyring_from(_settings(tmp_path, secret_kek_file=file, secret_kek_old=f"{TWO.hex()}, {bytes(32).hex()}"))
    assert keyring is not None
    assert keyring.current_id == Keyring(ONE).current_id
    for former in (TWO, bytes(32)):
        assert keyring.opens(Keyring(former).seal("a", "b", {}))


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"secret_kek": "nonsense"}, "CLOACINA_SECRET_KEK must be"),
        ({"secret_kek": ONE.hex(), "secret_kek_old": "nonsense"}, "CLOACINA_SECRET_KEK_OLD must be"),
        ({"secret_kek_old": ONE.hex()}, "there is no current key"),
        ({"secret_kek_file": Path("/nowhere/kek")}, "/nowhere/kek cannot be read"),
        ({"secret_kek_file": Path("/dev/null")}, "there is no current key"),
        ({"secret_kek": ONE.hex(), "secret_kek_file": Path("/dev/null")}, "both set"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, knobs: dict[str, object], said: str) -> None:
    with pytest.raises(KeyEncryptionKeyError, match=said) as refused:
        keyring_from(_settings(tmp_path, **knobs))
    assert "nonsense" not in refused.value.message
    assert ONE.hex() not in repr(_settings(tmp_path, **knobs))
