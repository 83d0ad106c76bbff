"""Plants each fault in honest books and demands that the checker finds it."""

import copy
import unittest

import checker

TIMES = 4


def honest():
    """Two subjects in turn; everything arrived once."""
    accepted, read = [], []
    for number in range(2 * TIMES):
        subject, seq = f"subject-{number % 2}", number // 2
        accepted.append({"id": f"id-{number}", "txn": f"txn-{number}", "subject": subject, "seq": seq})
        read.append({
            "txn": f"txn-{number}", "jti": f"jti-{number}", "subject": subject, "seq": seq, "payload": {"n": number},
            "partition": number % 2, "offset": seq,
        })  # fmt: skip
    return accepted, read, {"owed": 8, "acknowledged": 8, "parked": 0, "dropped": 0, "waiting": 0}


def append(read, number, **changes):
    """Another record at the end of its partition."""
    line = {**copy.deepcopy(read[number]), **changes}
    line["offset"] = 1 + max(one["offset"] for one in read if one["partition"] == line["partition"])
    read.append(line)


class Checker(unittest.TestCase):
    def setUp(self):
        self.accepted, self.read, self.gateway = honest()

    def faults(self):
        return checker.check("stream", self.accepted, self.read, self.gateway)

    def finds(self, words):
        found = self.faults()
        self.assertTrue(any(words in fault for fault in found), found)

    def test_honest_books_have_no_fault(self):
        self.assertEqual(self.faults(), [])
        self.assertEqual(checker.repeats(self.read), 0)

    def test_a_repeat_may_come_later(self):
        append(self.read, 0)
        append(self.read, 5)
        self.assertEqual(self.faults(), [])
        self.assertEqual(checker.repeats(self.read), 2)

    def test_finds_what_is_missing(self):
        del self.read[4]
        self.finds("event txn-4 was accepted and is missing")

    def test_finds_a_missing_last_one(self):
        del self.read[-1]
        self.finds("event txn-7 was accepted and is missing")

    def test_finds_what_was_never_accepted(self):
        append(self.read, 0, txn="txn-99", jti="jti-99")
        self.finds("event txn-99 came and was never accepted")

    def test_finds_two_that_changed_places(self):
        self.read[2]["offset"], self.read[4]["offset"] = self.read[4]["offset"], self.read[2]["offset"]
        self.finds("subject subject-0: txn-4 came where txn-2 was due")

    def test_finds_one_that_overtook_and_was_repeated_where_it_belongs(self):
        for line in self.read:
            if line["partition"] == 0:
                line["offset"] += 1
        self.read.append({**self.read[6], "offset": 0})
        self.finds("subject subject-0: txn-6 came where txn-0 was due")

    def test_finds_a_subject_in_two_partitions(self):
        self.read[7]["partition"] = 0
        self.read[7]["offset"] = 99
        self.finds("subject subject-1 lies in partitions [0, 1]")

    def test_finds_a_copy_with_another_jti(self):
        append(self.read, 3, jti="jti-other")
        self.finds("event txn-3 came as jti-3 and as jti-other")

    def test_finds_a_copy_with_another_payload(self):
        append(self.read, 3, payload={"n": 33})
        self.finds("jti jti-3 names two SETs")

    def test_finds_a_jti_of_two_events(self):
        self.read[5]["jti"] = "jti-3"
        self.finds("jti jti-3 names two SETs")

    def test_finds_a_changed_event(self):
        self.read[5]["seq"] = 9
        self.finds("event txn-5 has seq 9, accepted was 2")

    def test_finds_what_was_accepted_twice(self):
        self.accepted.append(self.accepted[0])
        self.finds("two accepted events have the same txn")

    def test_finds_books_that_do_not_add_up(self):
        for name in ("owed", "acknowledged"):
            self.gateway[name] -= 1
            self.finds(f"the gateway says {name} 7, the books say 8")
            self.gateway[name] += 1
        for name in ("parked", "dropped", "waiting"):
            self.gateway[name] += 1
            self.finds(f"the gateway says {name} 1, the books say 0")
            self.gateway[name] -= 1


if __name__ == "__main__":
    unittest.main()
