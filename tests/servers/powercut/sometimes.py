"""A stream that is declared at some starts of the gateway and not at others, and what may come to it."""

import checker
import scene

NAME = "sometimes"
STREAMS = scene.STREAMS | {
    NAME: scene.whole({"audience": "https://ten.example", "algorithm": "EdDSA", "authorization": "Bearer ten", "kinds": ["other"]}),
}


def check(accepted, received, present, gateway):
    """The faults of this stream. What was accepted while it was declared is delivered, what was accepted while it was not never is; what
    was under way when that changed may be either.

    present: from when to when each process of the gateway lived, and whether it had the stream.
    """
    kinds = STREAMS[NAME]["kinds"]
    wanted = [line for line in accepted if line["kind"] in kinds]
    whole = [line for line in received if "jti" in line]
    faults = [f"{NAME}: request {line['n']}: {fault}" for line in received for fault in line["faults"]]
    faults += checker.identities({line["id"]: line for line in accepted}, whole)
    came, ended = {line["id"] for line in whole}, checker.ends(whole)
    may = set()
    for line in wanted:
        lives = [there for began, end, there in present if began <= line["at"] and (end is None or end >= line["sent"])]
        if all(lives) and line["id"] not in ended:
            faults.append(f"{NAME}: event {line['id']} was accepted and never delivered")
        if any(lives):
            may.add(line["id"])
    faults += [f"{NAME}: event {one} came and is not this stream's" for one in sorted(came - may)]
    faults += checker.order(NAME, [line for line in wanted if line["id"] in came], whole)
    told = gateway.get(NAME, {})
    if told.get("waiting") or told.get("owed") != len(ended):
        faults.append(f"{NAME}: the gateway says {told}, and {len(ended)} were taken or refused")
    return faults
