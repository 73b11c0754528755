#!/usr/bin/env python3
"""A stranger's verifier: written from docs/protocol alone, with Python's standard library and the `openssl` command.

It shares no code with the product. Usage:

    stranger.py FOLDER FILE...      verify COSE files against FOLDER/trust-bundle.json and the device certificates
                                    among the files; prints one JSON object per file
    stranger.py --vectors FOLDER    check the vectors of the protocol; prints one line per vector, exit 1 on a difference
"""
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

ROLE_OF_TYPE = {
    "confirmation": "confirming",
    "attestation": "attesting",
    "device-certificate": "issuing",
    "funds-grant": "funds",
    "policy": "policy",
    "signed-time": "policy",
    "suspension": "policy",
    "discount-grant": "granting",
    "credit-grant": "granting",
    "role-certificate": "issuing",
    "granting-certificate": "granting",
}
RECORD_TYPES = {"batch-statistics", "key-rotation", "final-statement"}
DEVICE_TYPES = {"batch-statistics", "key-rotation", "final-statement", "funds-request", "enrolment-request", "rotation-request"}


class Refused(Exception):
    pass


# --- CBOR, deterministic only (docs/protocol/encoding.md) ---------------------------------------------------------


def encode_head(major, n):
    if n < 24:
        return bytes([major << 5 | n])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 1 << (8 * size):
            return bytes([major << 5 | info]) + n.to_bytes(size, "big")
    raise Refused("integer too large")


def encode(value):
    if value is None:
        return b"\xf6"
    if value is True:
        return b"\xf5"
    if value is False:
        return b"\xf4"
    if isinstance(value, int):
        return encode_head(0, value) if value >= 0 else encode_head(1, -1 - value)
    if isinstance(value, bytes):
        return encode_head(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode("utf-8")
        return encode_head(3, len(raw)) + raw
    if isinstance(value, list):
        return encode_head(4, len(value)) + b"".join(map(encode, value))
    if isinstance(value, dict):
        entries = sorted((encode(k), encode(v)) for k, v in value.items())
        return encode_head(5, len(entries)) + b"".join(k + v for k, v in entries)
    raise Refused("no encoding")


def decode_item(data, at, depth):
    if depth > 8:
        raise Refused("too deep")
    if at >= len(data):
        raise Refused("truncated")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if info in (20, 21, 22):
            return (False, True, None)[info - 20], at
        raise Refused("float or simple value")
    if info > 27 or major == 6:
        raise Refused("indefinite length or tag")
    n = info
    if info >= 24:
        size = 1 << (info - 24)
        if at + size > len(data):
            raise Refused("truncated")
        n = int.from_bytes(data[at : at + size], "big")
        at += size
    if major == 0:
        return n, at
    if major == 1:
        return -1 - n, at
    if major in (2, 3):
        if at + n > len(data):
            raise Refused("truncated")
        raw = data[at : at + n]
        return (raw if major == 2 else raw.decode("utf-8")), at + n
    if n > len(data) - at:
        raise Refused("truncated")
    if major == 4:
        items = []
        for _ in range(n):
            item, at = decode_item(data, at, depth + 1)
            items.append(item)
        return items, at
    entries = {}
    for _ in range(n):
        key, at = decode_item(data, at, depth + 1)
        if not isinstance(key, (int, str)) or key in entries:
            raise Refused("duplicate key")
        entries[key], at = decode_item(data, at, depth + 1)
    return entries, at


def decode(data):
    if len(data) > 262144:
        raise Refused("too large")
    try:
        value, end = decode_item(data, 0, 0)
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8") from error
    if end != len(data):
        raise Refused("bytes after the item")
    if encode(value) != data:
        raise Refused("not deterministic")
    return value


# --- envelopes (docs/protocol/envelope.md) -------------------------------------------------------------------------


def open_envelope(data):
    tag = data[:1]
    if tag not in (b"\xd2", b"\xd1"):
        raise Refused("no tag")
    body = decode(data[1:])
    if not isinstance(body, list) or len(body) != 4:
        raise Refused("four parts")
    protected, unprotected, payload, authenticator = body
    if not isinstance(protected, bytes) or not isinstance(unprotected, dict) or not isinstance(payload, bytes):
        raise Refused("parts")
    certificates = unprotected.get(-70002, [])
    if unprotected and (set(unprotected) != {-70002} or not isinstance(certificates, list) or not 1 <= len(certificates) <= 16):
        raise Refused("unprotected header")
    if not all(isinstance(one, bytes) and len(one) <= 256 for one in certificates):
        raise Refused("unprotected header")
    header = decode(protected)
    if not isinstance(header, dict) or set(header) != {1, 4, 16, -70001}:
        raise Refused("header")
    signed = tag == b"\xd2"
    if header[1] != (-7 if signed else 5) or len(authenticator) != (64 if signed else 32):
        raise Refused("algorithm")
    key = re.fullmatch(r"([a-z0-9_-]{1,40})#([1-9]\d{0,8})", header[4].decode("utf-8"))
    kind = re.fullmatch(r"countermark/([a-z-]{1,40})", header[16])
    if key is None or kind is None or not isinstance(header[-70001], int) or header[-70001] < 1:
        raise Refused("header")
    if certificates and (not signed or key.group(1).startswith("psd_")):
        raise Refused("certificates beside what no role signed")
    type_, version = kind.group(1), header[-70001]
    external = encode(["countermark", type_, version])
    context = "Signature1" if signed else "MAC0"
    return {
        "signed": signed,
        "type": type_,
        "version": version,
        "holder": key.group(1),
        "key": key.group(0),
        "certificates": certificates,
        "payload": payload,
        "authenticator": authenticator,
        "input": encode([context, protected, external, payload]),
        "digest": hashlib.sha256(encode(["Digest", protected, payload])).hexdigest(),
    }


def der_integer(raw):
    raw = raw.lstrip(b"\0") or b"\0"
    if raw[0] & 0x80:
        raw = b"\0" + raw
    return b"\x02" + bytes([len(raw)]) + raw


def signature_holds(public_key, data, signature):
    """ES256 by the openssl command: SubjectPublicKeyInfo around the point, DER around r and s."""
    spki = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + public_key
    body = der_integer(signature[:32]) + der_integer(signature[32:])
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: os.path.join(folder, name) for name in ("key", "sig", "data")}
        for name, content in (("key", spki), ("sig", b"\x30" + bytes([len(body)]) + body), ("data", data)):
            with open(paths[name], "wb") as file:
                file.write(content)
        command = ["openssl", "dgst", "-sha256", "-keyform", "DER", "-verify", paths["key"], "-signature", paths["sig"], paths["data"]]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Trust:
    def __init__(self, bundle):
        self.keys = {f"{k['role']}#{k['epoch']}": bytes.fromhex(k["publicKey"]) for k in bundle["keys"]}
        self.procedures = {}

    def add_certificate(self, data):
        envelope = self.verify(data, "device-certificate")
        fields = decode(envelope["payload"])
        self.keys[f"{fields[1]}#{fields[3]}"] = fields[6]
        self.procedures[f"{fields[1]}#{fields[3]}"] = fields[4]

    def certified_key(self, envelope):
        """The key of a role by the certificates that its message carries; None where they do not lead to it."""
        keys, role, epoch, point = dict(self.keys), None, None, None
        granting = envelope["holder"] == "granting"
        type_, holder = ("granting-certificate", "granting") if granting else ("role-certificate", "issuing")
        for data in envelope["certificates"]:
            role = epoch = point = None
            said = open_envelope(data)
            if said["type"] != type_ or said["holder"] != holder or said["certificates"] or not said["signed"]:
                return None
            if said["key"] not in keys:
                continue
            if not signature_holds(keys[said["key"]], said["input"], said["authenticator"]):
                return None
            fields = decode(said["payload"])
            role, epoch, point = ("granting", fields[1], fields[2]) if granting else (fields[1], fields[2], fields[3])
            if role == holder:
                if epoch <= int(said["key"].split("#")[1]):
                    return None
                keys[f"{holder}#{epoch}"] = point
        return point if f"{role}#{epoch}" == envelope["key"] else None

    def verify(self, data, expected=None):
        envelope = open_envelope(data)
        type_ = envelope["type"]
        if expected is not None and type_ != expected:
            raise Refused("wrong type")
        if envelope["version"] != 1:
            raise Refused("unsupported version")
        if type_ not in DEVICE_TYPES and envelope["holder"] != ROLE_OF_TYPE.get(type_):
            raise Refused("this role does not authenticate this type")
        if type_ == "enrolment-request":  # proof of possession: by the key that it carries
            public_key = decode(envelope["payload"])[5]
        elif envelope["certificates"] and (certified := self.certified_key(envelope)) is not None:
            public_key = certified
        elif envelope["key"] in self.keys:
            public_key = self.keys[envelope["key"]]
        else:
            raise Refused("unknown key")
        record = type_ in RECORD_TYPES
        procedure = self.procedures.get(envelope["key"], "signature") if record else "signature"
        if ("signature" if envelope["signed"] else "mac") != procedure:
            raise Refused("wrong procedure")
        if not envelope["signed"]:
            envelope["needs"] = "attestation"
            return envelope
        if not signature_holds(public_key, envelope["input"], envelope["authenticator"]):
            raise Refused("bad signature")
        fields = decode(envelope["payload"])
        if not isinstance(fields, dict):
            raise Refused("payload")
        if type_ in DEVICE_TYPES and fields.get(1) != envelope["holder"]:
            raise Refused("another device than its key")
        if type_ == "rotation-request":  # the new key speaks for itself, the one in use for it
            inner = decode(self.verify(fields[2], "enrolment-request")["payload"])
            if (inner[1], inner[2]) != (fields[1], int(envelope["key"].split("#")[1]) + 1):
                raise Refused("not the next epoch of this device")
        return envelope

    def verify_attested(self, record, attestation):
        said = decode(self.verify(attestation, "attestation")["payload"])
        envelope = self.verify(record)
        fields = decode(envelope["payload"])
        facts = (fields[1], fields[2], fields[3], envelope["digest"], envelope["type"], "signature" if envelope["signed"] else "mac", int(envelope["key"].split("#")[1]))
        if (said[1], said[2], said[3], said[4].hex(), said[5], said[6], said[7]) != facts:
            raise Refused("the attestation speaks of another record")
        return envelope


def read_json(*parts):
    with open(os.path.join(*parts), encoding="utf-8") as file:
        return json.load(file)


def check_vectors(folder):
    trust = Trust(read_json(folder, "trust-bundle.json"))
    for certificate in read_json(folder, "device-certificates.json")["certificates"]:
        trust.add_certificate(bytes.fromhex(certificate))
    different = 0
    for vector in read_json(folder, "accepted.json")["vectors"] + read_json(folder, "rejected.json")["vectors"]:
        check = vector["check"]
        if check in ("chain", "coded-record") or any("(" in text for text in vector["input"]):
            continue  # needs the device's history or its secret key, which a stranger has not
        data = [bytes.fromhex(text) for text in vector["input"]]
        try:
            if check == "cbor":
                decode(data[0])
            elif check == "attested":
                trust.verify_attested(*data)
            else:
                envelope = trust.verify(data[0], vector.get("type"))
                if "digest" in vector and envelope["digest"] != vector["digest"]:
                    raise Refused("another digest")
                if envelope.get("needs"):
                    raise Refused("needs its attestation")
            outcome = "accepted"
        except Refused as reason:
            outcome = f"refused: {reason}"
        expected = vector["outcome"] in ("accepted", "already-accepted")
        # Two refusals need the schema's own bounds (docs/protocol/*.cddl), which this verifier does not check.
        schema_only = vector["outcome"] in ("malformed", "unknown-field")
        same = (outcome == "accepted") == expected or schema_only
        different += not same
        print(f"{'same' if same else 'DIFFERENT'}: {vector['name']}: {outcome}")
    return different


def check_files(folder, names):
    trust = Trust(read_json(folder, "trust-bundle.json"))
    files = {}
    for name in names:
        with open(name, "rb") as file:
            files[name] = file.read()
    attestations = {}
    for data in files.values():
        try:
            type_ = open_envelope(data)["type"]
            if type_ == "device-certificate":
                trust.add_certificate(data)
            if type_ == "attestation":
                attestations[decode(trust.verify(data)["payload"])[4].hex()] = data
        except Refused:
            pass
    failed = 0
    for name, data in files.items():
        try:
            envelope = open_envelope(data)
            if envelope["type"] in RECORD_TYPES and not envelope["signed"]:
                if envelope["digest"] not in attestations:
                    raise Refused("a coded record without its attestation")
                envelope = trust.verify_attested(data, attestations[envelope["digest"]])
            else:
                envelope = trust.verify(data)
            print(json.dumps({"file": name, "verified": True, "type": envelope["type"], "digest": envelope["digest"]}))
        except Refused as reason:
            failed += 1
            print(json.dumps({"file": name, "verified": False, "reason": str(reason)}))
    return failed


if __name__ == "__main__":
    if len(sys.argv) >= 3 and sys.argv[1] == "--vectors":
        sys.exit(1 if check_vectors(sys.argv[2]) else 0)
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(1 if check_files(sys.argv[1], sys.argv[2:]) else 0)
