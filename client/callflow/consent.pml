/*
 * Who opens a microphone: the part of the call flow that must hold whatever a caller sends.
 *
 * The caller is anybody: it sends any of its messages, in any order, as often as it likes, and may lie. The callee's device and its
 * user are ours. The callee's second device is there so that two may accept. The honest caller of the second half takes one accept.
 *
 *   here                    package callflow
 *   callee(), d.state       call.phase and leg.keyed at the callee's end
 *   toCallee                Received: offer, answer, accept, media (MediaState, Path), candidates, hangup
 *   user accepts            AcceptCall, consent()
 *   opened[d]               the effect Open at the callee's end
 *   caller(), winner        onAccept(), call.chosen; callerOpened is Open at the caller's end
 *
 * Seeded mistakes, of which Spin must find each (consent_test.go):
 *   -DCONNECT     the caller's own "accept" counts as the callee's (Signal for Android, 2019)
 *   -DJOIN        a second offer, of one more participant, makes the call active (FaceTime, 2019)
 *   -DUPDATE      a media update opens the microphone while it rings (Facebook Messenger, 2020)
 *   -DCANDIDATES  being connected opens it, before the accept (JioChat, Mocha, Duo, 2020)
 *   -DSECOND      a second accept opens the caller's microphone for another device
 */

mtype = { offer, answer, accept, media, candidates, hangup, elsewhere };
mtype = { idle, ringing, joined, over };

chan toCallee[2] = [2] of { mtype };	/* messages overtake each other: see deliver */
chan toCaller = [2] of { mtype, byte };

mtype state[2] = idle;
bool keyed[2], consented[2], opened[2];
bool callerOpened, honest;
byte winner = 2;	/* nobody */

inline deliver(d, m) {
	if	/* reordered: whichever of those under way */
	:: toCallee[d]?m
	:: toCallee[d]??offer -> m = offer
	:: toCallee[d]??hangup -> m = hangup
	:: toCallee[d]??elsewhere -> m = elsewhere
	fi
}

inline open(d) {
	assert(consented[d]);	/* never without the user */
	assert(!opened[d]);	/* never twice */
	opened[d] = true
}

proctype callee(byte d) {
	mtype m;
end:	do
	:: deliver(d, m);
		if
		:: m == offer && state[d] == idle -> state[d] = ringing; keyed[d] = true	/* prepared while it rings */
#ifdef JOIN
		:: m == offer && state[d] == ringing -> state[d] = joined; open(d)
#endif
#ifdef CONNECT
		:: m == accept && state[d] == ringing -> state[d] = joined; open(d)
#endif
#ifdef UPDATE
		:: m == media && state[d] == ringing -> open(d)
#endif
#ifdef CANDIDATES
		:: m == candidates && keyed[d] && !opened[d] && state[d] == ringing -> open(d)
#endif
		:: (m == hangup || m == elsewhere) -> state[d] = over
		:: else	/* anything else means nothing at this end */
		fi
	:: state[d] == ringing ->	/* the user accepts */
		consented[d] = true;
		state[d] = joined;
		open(d);
		toCaller!accept, d
	:: state[d] == ringing -> state[d] = over	/* declines, or time passes */
	od
}

/* anybody sends anything. */
proctype attacker() {
	byte d, left = 3;
	do
	:: left > 0 ->
		left--;
		select(d : 0 .. 1);
		if
		:: toCallee[d]!offer
		:: toCallee[d]!answer
		:: toCallee[d]!accept
		:: toCallee[d]!media
		:: toCallee[d]!candidates
		:: toCallee[d]!hangup
		fi
	:: break
	od
}

/* the first accept wins, the other device is told. */
proctype caller() {
	byte d;
	toCallee[0]!offer;
	toCallee[1]!offer;
end:	do
	:: toCaller?accept, d ->
		if
		:: winner == 2 ->
			winner = d;
			callerOpened = true;
			assert(consented[d]);
			toCallee[1 - d]!elsewhere
#ifdef SECOND
		:: winner != 2 && winner != d -> winner = d; assert(!callerOpened)
#endif
		:: else
		fi
	od
}

init {
	atomic {
		run callee(0);
		run callee(1);
		if
		:: run attacker()
		:: honest = true; run caller()
		fi
	}
}
