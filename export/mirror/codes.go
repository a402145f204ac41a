package mirror

import "slices"

// Code names a rule. Codes are stable: scripts compare them.
type Code string

const (
	// The log.
	CodeCheckpoint Code = "checkpoint" // the checkpoint is missing, or not signed as the policy demands
	CodeQuorum     Code = "quorum"     // too few witnesses signed it
	CodeRollback   Code = "rollback"   // it is older than one seen before
	CodeFork       Code = "fork"       // it contradicts one seen before
	CodeTile       Code = "tile"       // a tile or entry bundle is missing, or other than the checkpoint demands
	CodeRoot       Code = "root"       // the entries do not give the root that the checkpoint signs
	CodeEntry      Code = "entry"      // an entry is not one of this log's

	// What the entries say.
	CodeGap          Code = "window-gap"     // a window starts after the end of the one before
	CodeOverlap      Code = "window-overlap" // a window starts before the end of the one before
	CodeSilence      Code = "silence"        // no window was closed for more than two periods
	CodeTerms        Code = "terms"          // a period, hold or retention longer than a year
	CodeFuture       Code = "future"         // a time that has not come yet
	CodeSigner       Code = "signer"         // a signer of archives that the log has not introduced, or has retired, or contradicts
	CodeErasureEarly Code = "erasure-early"  // files were erased before their retention was over
	CodeErasureLate  Code = "erasure-late"   // files were not erased one period after their retention
	// A service key is one of the keyring.
	CodeServiceKeyLate    Code = "service-key-late"    // announced less than a day before its use
	CodeServiceKeySecond  Code = "service-key-second"  // another than one that was seen before for its day
	CodeServiceKeyDropped Code = "service-key-dropped" // announced before, and withdrawn before its day

	CodeHandover Code = "handover" // an opening or closing entry out of place, or contradicting another log

	// What the tree serves.
	CodePolicy      Code = "policy"       // the tree's policy is missing, unreadable, or does not accept its checkpoint
	CodeIndex       Code = "index"        // index.json or gaen/index.txt is unreadable or says other than the log
	CodeSignerKey   Code = "signer-key"   // the PEM file of a signer is missing, or not the one that the log names
	CodeSmallFile   Code = "small-file"   // a small file is not the one that the log names
	CodeKeyring     Code = "keyring"      // the keyring is unreadable or of another service
	CodeProof       Code = "proof"        // a proof beside a file is missing or does not hold
	CodeFileMissing Code = "file-missing" // a file that should be there is not
	CodeFileBytes   Code = "file-bytes"   // a file is not the one that the log names
	CodeFileLate    Code = "file-late"    // a file is still there one period after its retention
	CodeFileStray   Code = "file-stray"   // a file that the log does not name, or no longer

	// What files hold.
	CodeContents  Code = "contents"  // a file is not readable, or holds other than its manifest says
	CodeSignature Code = "signature" // export.sig is not by the signer it names
	CodeDisagree  Code = "disagree"  // archive and key set of a window hold different keys
	CodeKeyOld    Code = "key-old"   // a key ended longer ago than the log's own terms allow
	CodeKeyEarly  Code = "key-early" // a key was published before it was due
)

// conduct are the findings about what an operator did and when. They do not keep a mirror
// from moving on, for what it copies is authentic and whole all the same, and a copy of
// misconduct is evidence.
var conduct = []Code{
	CodeQuorum, CodeGap, CodeOverlap, CodeSilence, CodeTerms, CodeFuture, CodeSigner, CodeErasureEarly, CodeErasureLate, CodeHandover,
	CodeFileLate, CodeFileStray, CodeKeyOld, CodeKeyEarly, CodeServiceKeyLate, CodeServiceKeySecond, CodeServiceKeyDropped,
}

func (c Code) blocks() bool { return !slices.Contains(conduct, c) }
