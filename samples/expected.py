#!/usr/bin/env python3
"""Reckons what bureau-mailing.csv costs and earns, independently of Countermark's code and data files.

Only Python's standard library. The prices below were written down by hand from the USPS prices of 2025-07-13 (docs/tariff.md
names the sources); the rule of the discount is the one of issue 2: posting = customer and mailing date, the band by all
its pieces, the band's percentage of the sum of (affixed price - declared level's price), rounded down once to a whole mill.

Run `python3 samples/expected.py` to rewrite expected.json, `--check` to compare with it (exit 1 if it differs).
"""

import csv
import json
import sys
from decimal import Decimal
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Mills (USD 0.001) by (product, level) and the weight step's upper bound in tenths of an ounce.
AFFIXED = {
    ("usps-fcm-letter", 10): 740,
    ("usps-fcm-letter", 20): 1030,
    ("usps-fcm-flat", 30): 2170,
    ("usps-fcm-flat", 40): 2440,
}
DECLARED = {
    ("usps-fcm-letter", "5-digit", 10): 593,
    ("usps-fcm-letter", "5-digit", 20): 593,
    ("usps-fcm-letter", "aadc", 10): 641,
    ("usps-fcm-letter", "aadc", 20): 641,
    ("usps-fcm-letter", "mixed-aadc", 10): 672,
    ("usps-fcm-letter", "mixed-aadc", 20): 672,
    ("usps-fcm-flat", "5-digit", 30): 1510,
    ("usps-fcm-flat", "5-digit", 40): 1780,
    ("usps-fcm-flat", "3-digit", 30): 1775,
    ("usps-fcm-flat", "3-digit", 40): 2045,
    ("usps-fcm-flat", "adc", 30): 1871,
    ("usps-fcm-flat", "adc", 40): 2141,
    ("usps-fcm-flat", "mixed-adc", 30): 2028,
    ("usps-fcm-flat", "mixed-adc", 40): 2298,
}
SHAPE = {"usps-fcm-letter": "letter", "usps-fcm-flat": "flat"}
AFFIXED_LEVEL = {"usps-fcm-letter": "single-piece-metered", "usps-fcm-flat": "single-piece"}
STEPS = {"usps-fcm-letter": (10, 20, 30, 35), "usps-fcm-flat": tuple(range(10, 140, 10))}
BANDS = ((2000, 18), (1500, 14), (1000, 10), (750, 6), (500, 3))

# Suggested baselines of the growth credit, in pieces: 30 % of the average postage affixed, for the pieces above.
BASELINES = {"alder-press": 500, "birch-mutual": 1500, "cedar-clinic": 750}


def weight_step(product, ounces):
    return next(step for step in STEPS[product] if Decimal(ounces) * 10 <= step)


def band_percent(pieces):
    return next((percent for least, percent in BANDS if pieces >= least), 0)


def reckon():
    with open(HERE / "bureau-mailing.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = {}
    for row in rows:
        cell = (row["customer"], row["product"], row["level"], weight_step(row["product"], row["weight_oz"]))
        counts[cell] = counts.get(cell, 0) + 1

    customers = []
    for customer in sorted({cell[0] for cell in counts}):
        cells = []
        for (owner, product, level, step), pieces in sorted(counts.items()):
            if owner != customer:
                continue
            affixed, declared = AFFIXED[product, step], DECLARED[product, level, step]
            cells.append(
                {
                    "product": product,
                    "shape": SHAPE[product],
                    "affixed": AFFIXED_LEVEL[product],
                    "level": level,
                    "entry": "none",
                    "weightStep": step,
                    "pieces": pieces,
                    "postageMills": affixed * pieces,
                    "declaredMills": declared * pieces,
                    "differenceMills": (affixed - declared) * pieces,
                }
            )
        total = lambda name: sum(cell[name] for cell in cells)
        pieces, postage, difference = total("pieces"), total("postageMills"), total("differenceMills")
        percent = band_percent(pieces)
        above = max(0, pieces - BASELINES[customer])
        customers.append(
            {
                "customer": customer,
                "pieces": pieces,
                "postageMills": postage,
                "declaredMills": total("declaredMills"),
                "differenceMills": difference,
                "bandPercent": percent,
                "discountMills": difference * percent // 100,
                "baselinePieces": BASELINES[customer],
                "piecesAboveBaseline": above,
                "growthCreditMills": 30 * postage * above // (100 * pieces),
                "cells": cells,
            }
        )

    return {
        "mailing": "bureau-mailing.csv",
        "tariff": "usps-2025-07-13",
        "currency": "USD",
        "exponent": 3,
        "pieces": len(rows),
        "postageMills": sum(customer["postageMills"] for customer in customers),
        "discountMills": sum(customer["discountMills"] for customer in customers),
        "growthCreditMills": sum(customer["growthCreditMills"] for customer in customers),
        "customers": customers,
    }


def as_text(value):
    """JSON with amounts as strings, as everywhere in Countermark."""
    if isinstance(value, dict):
        return {name: str(item) if name.endswith("Mills") else as_text(item) for name, item in value.items()}
    return [as_text(item) for item in value] if isinstance(value, list) else value


def main():
    text = json.dumps(as_text(reckon()), indent=2) + "\n"
    path = HERE / "expected.json"
    if "--check" in sys.argv:
        sys.exit(0 if path.read_text(encoding="utf-8") == text else f"{path.name} differs: run expected.py")
    path.write_text(text, encoding="utf-8")


main()
