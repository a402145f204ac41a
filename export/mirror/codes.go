package mirror

// Code names a rule. Codes are stable: scripts compare them.
type Code string

const (
	CodePolicy      Code = "policy"       // the tree's policy is missing, unreadable, or does not accept its checkpoint
	CodeCheckpoint  Code = "checkpoint"   // the checkpoint is missing, or not signed as the policy demands
	CodeIndex       Code = "index"        // index.json is unreadable or says other than the log
	CodeProof       Code = "proof"        // a proof beside a file is missing or does not hold
	CodeSigner      Code = "signer"       // a signer of archives that the log has not introduced, or has retired
	CodeSignature   Code = "signature"    // export.sig is not by the signer it names
	CodeFileMissing Code = "file-missing" // a file that should be there is not
	CodeFileBytes   Code = "file-bytes"   // a file is not the one that the log names
	CodeContents    Code = "contents"     // a file is not readable, or holds other than its manifest says
	CodeDisagree    Code = "disagree"     // archive and key set of a window hold different keys
)
