"""Receives multi-SET push: answers each SET by itself, some of them only with a later request."""

from batches import Batches


class MultiPush(Batches):
    async def answer(self, body):
        """The object that answers a request with these SETs."""
        await self.take(body.get("sets") or {}, way="multipush")
        # What is not said now is said in the answer to another request.
        said = self.say(some=not self.receiver.calm and self.random.random() < 0.3)
        answer = {"ack": said["ack"]}
        if said["setErrs"]:
            answer["setErrs"] = said["setErrs"]
        return answer, said
