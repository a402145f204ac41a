package permit

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
	"github.com/cloudflare/circl/zk/dleq"

	"bluekey/keystore/diagnosis"
)

func vector(t testing.TB, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("../../testdata/vectors/permit/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// hexBytes reads the hex strings of the vectors.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// permitVector is poprf.json: one permit from code to upload.
type permitVector struct {
	Origin, Region string
	Report         diagnosis.ReportType `json:"report_type"`
	Epoch          uint32
	Seed           hexBytes
	KeyInfo        hexBytes `json:"key_info"`
	SecretKey      hexBytes `json:"secret_key"`
	PublicKey      hexBytes `json:"public_key"`
	ESeed          hexBytes `json:"e_seed"`
	E, Nonce       hexBytes
	Input, Info    hexBytes
	Blind, Blinded hexBytes
	ProofRandom    hexBytes `json:"proof_random"`
	Evaluated      hexBytes
	Proof, Output  hexBytes
	OutputHash     hexBytes `json:"output_hash"`
}

func readPermit(t testing.TB) (v permitVector, s Service, info Info) {
	t.Helper()
	vector(t, "poprf.json", &v)
	s, err := NewService(v.Origin, v.Region)
	if err != nil {
		t.Fatal(err)
	}
	return v, s, Info{v.Report, v.Epoch}
}

// pending is the phone of the vector.
func (v *permitVector) pending(t testing.TB) *Pending {
	t.Helper()
	p, err := ParsePending(bytes.Join([][]byte{v.ESeed, v.Nonce, v.Blind}, nil))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (v *permitVector) issuer(t testing.TB, s Service) *Issuer {
	t.Helper()
	i, err := NewIssuer(s, [32]byte(v.Seed))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// published is a keyring with the vector's one key.
func (v *permitVector) published(epoch uint32) ([32]byte, bool) {
	return [32]byte(v.PublicKey), epoch == v.Epoch
}

func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n have %x\n want %x", what, got, want)
	}
}

// TestThePermitOfTheVectors walks the one permit that was also made in JavaScript.
func TestThePermitOfTheVectors(t *testing.T) {
	v, s, info := readPermit(t)
	same(t, "key info", s.keyInfo(v.Epoch), v.KeyInfo)
	same(t, "info", s.bytes(info), v.Info)
	same(t, "input", input([32]byte(v.E), [32]byte(v.Nonce)), v.Input)

	p := v.pending(t)
	e := p.e()
	same(t, "e", e[:], v.E)
	same(t, "blinded", p.blinded[:], v.Blinded)
	same(t, "pending", p.Bytes(), bytes.Join([][]byte{v.ESeed, v.Nonce, v.Blind}, nil))

	issuer := v.issuer(t, s)
	public := issuer.PublicKey(v.Epoch)
	same(t, "public key", public[:], v.PublicKey)
	got, err := issuer.Evaluate(info, [32]byte(v.Blinded))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "evaluated", got.Element[:], v.Evaluated)

	// The proof of the vector and the fresh one serve alike.
	for name, proof := range map[string][]byte{"fresh": got.Proof[:], "vector": v.Proof} {
		reply := RedeemReply{Info: info, Evaluation: Evaluation{Element: [32]byte(v.Evaluated), Proof: [64]byte(proof)}}
		held, err := p.Finalize(s, reply, v.Epoch, v.published)
		if err != nil {
			t.Fatalf("%s proof: %v", name, err)
		}
		same(t, "output", held.Output[:], v.Output)
		spent := held.Spent()
		same(t, "output hash", spent[:], v.OutputHash)
	}
	same(t, "rebuilt proof", proveWith(v.SecretKey, v.Info, [][]byte{v.Blinded}, [][]byte{v.Evaluated}, v.ProofRandom), v.Proof)
}

// proveWith rebuilds the proof of an evaluation with given randomness, which circl's own
// Evaluate does not take: RFC 9497, sections 2.2.1 and 3.3.3.
func proveWith(secret, info []byte, blinded, evaluated [][]byte, random []byte) []byte {
	g := group.Ristretto255
	scalar := func(b []byte) group.Scalar {
		s := g.NewScalar()
		if err := s.UnmarshalBinary(b); err != nil {
			panic(err)
		}
		return s
	}
	elements := func(bs [][]byte) (es []group.Element) {
		for _, b := range bs {
			e := g.NewElement()
			if err := e.UnmarshalBinary(b); err != nil {
				panic(err)
			}
			es = append(es, e)
		}
		return es
	}
	framed := append([]byte("Info"), byte(len(info)>>8), byte(len(info)))
	m := g.HashToScalar(append(framed, info...), []byte("HashToScalar-OPRFV1-\x02-ristretto255-SHA512"))
	tweaked := g.NewScalar().Add(m, scalar(secret))
	prover := dleq.Prover{Params: dleq.Params{G: g, H: crypto.SHA512, DST: []byte("OPRFV1-\x02-ristretto255-SHA512")}}
	proof, err := prover.ProveBatchWithRandomnessRFC9497(tweaked, g.NewElement().MulGen(tweaked),
		elements(evaluated), elements(blinded), scalar(random))
	if err != nil {
		panic(err)
	}
	b, err := proof.MarshalBinary()
	if err != nil {
		panic(err)
	}
	return b
}

// TestRFC9497 runs the vectors of appendix A.1.3 through the library as this package uses
// it: batches included, which the package itself never asks for.
func TestRFC9497(t *testing.T) {
	var v struct {
		Seed      hexBytes
		KeyInfo   hexBytes `json:"key_info"`
		SecretKey hexBytes `json:"secret_key"`
		PublicKey hexBytes `json:"public_key"`
		Vectors   []struct {
			Info                                     hexBytes
			Input, Blind, Blinded, Evaluated, Output []hexBytes
			ProofRandom                              hexBytes `json:"proof_random"`
			Proof                                    hexBytes
		}
	}
	vector(t, "rfc9497-poprf-ristretto255.json", &v)
	private, err := oprf.DeriveKey(suite, oprf.PartialObliviousMode, v.Seed, v.KeyInfo)
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := private.MarshalBinary()
	same(t, "secret key", secret, v.SecretKey)
	public, err := parsePublic([32]byte(v.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	client, server := oprf.NewPartialObliviousClient(suite, public), oprf.NewPartialObliviousServer(suite, private)
	for _, c := range v.Vectors {
		var inputs, blinded, evaluated [][]byte
		var blinds []oprf.Blind
		for i := range c.Input {
			inputs, blinded, evaluated = append(inputs, c.Input[i]), append(blinded, c.Blinded[i]), append(evaluated, c.Evaluated[i])
			blind := group.Ristretto255.NewScalar()
			if err := blind.UnmarshalBinary(c.Blind[i]); err != nil {
				t.Fatal(err)
			}
			blinds = append(blinds, blind)
		}
		data, request, err := client.DeterministicBlind(inputs, blinds)
		if err != nil {
			t.Fatal(err)
		}
		evaluation, err := server.Evaluate(request, c.Info)
		if err != nil {
			t.Fatal(err)
		}
		for i := range inputs {
			b, _ := request.Elements[i].MarshalBinaryCompress()
			same(t, "blinded", b, c.Blinded[i])
			b, _ = evaluation.Elements[i].MarshalBinaryCompress()
			same(t, "evaluated", b, c.Evaluated[i])
		}
		same(t, "proof", proveWith(v.SecretKey, c.Info, blinded, evaluated, c.ProofRandom), c.Proof)
		if err := evaluation.Proof.UnmarshalBinary(group.Ristretto255, c.Proof); err != nil {
			t.Fatal(err)
		}
		outputs, err := client.Finalize(data, evaluation, c.Info)
		if err != nil {
			t.Fatal(err)
		}
		for i := range inputs {
			same(t, "output", outputs[i], c.Output[i])
			if !server.VerifyFinalize(inputs[i], c.Info, c.Output[i]) {
				t.Error("the server does not know its own output")
			}
		}
	}
}

// exchange is one message pair of exchange.json, its plaintexts only.
type exchange struct {
	Name    string
	Request hexBytes `json:"request_plain"`
	Reply   hexBytes `json:"reply_plain"`
}

func readExchanges(t testing.TB) []exchange {
	t.Helper()
	var v struct{ Exchanges []exchange }
	vector(t, "exchange.json", &v)
	if len(v.Exchanges) < 4 {
		t.Fatal("exchange.json has fewer exchanges than it used to")
	}
	return v.Exchanges
}

// TestTheExchangesOfTheVectors decodes what Go and JavaScript packed, encodes it again and
// checks the uploads as a server of that day.
func TestTheExchangesOfTheVectors(t *testing.T) {
	v, s, info := readPermit(t)
	issuer := v.issuer(t, s)
	records := map[string]int{"upload 30 GAEN keys": 30, "upload 16 Bluezone seeds": 16, "upload 14 GAEN keys": 14}
	for _, x := range readExchanges(t) {
		t.Run(x.Name, func(t *testing.T) {
			request, err := DecodeRequest(x.Request)
			if err != nil {
				t.Fatal(err)
			}
			if request.IsCover() {
				t.Error("taken for cover")
			}
			switch r := request.(type) {
			case *RedeemRequest:
				if r.Code != "0123456789ABCDEF" || !bytes.Equal(r.Blinded[:], v.Blinded) {
					t.Error("another code or element")
				}
				again, err := r.Encode()
				if err != nil {
					t.Fatal(err)
				}
				same(t, "request", again, x.Request)
			case *UploadRequest:
				if n := records[x.Name]; len(r.Keys) != n || r.Permit.Info != info {
					t.Errorf("%d keys under %v, want %d under %v", len(r.Keys), r.Permit.Info, n, info)
				}
				held := Held{Permit: r.Permit, private: v.pending(t).private}
				again, err := held.Upload(s, r.Keys)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "request", again, x.Request) // Ed25519 is deterministic
				spent := r.Permit.Spent()
				same(t, "output hash", spent[:], v.OutputHash)
				if !issuer.Check(r, v.Epoch+1) {
					t.Error("the upload is not accepted")
				}
			}
			reply, err := DecodeReply(request.Operation(), x.Reply)
			if err != nil {
				t.Fatal(err)
			}
			again, err := reply.Encode()
			if err != nil {
				t.Fatal(err)
			}
			same(t, "reply", again, x.Reply)
			if r, ok := reply.(RedeemReply); ok {
				if _, err := v.pending(t).Finalize(s, r, v.Epoch, v.published); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestSignaturesOfTheVectors: e verifies what other implementations signed with it.
func TestSignaturesOfTheVectors(t *testing.T) {
	var v struct {
		Message   hexBytes
		Public    hexBytes `json:"ed25519_public"`
		Signature hexBytes `json:"ed25519_signature"`
	}
	vector(t, "signatures.json", &v)
	p, _, _ := readPermit(t)
	private := p.pending(t).private
	same(t, "signature", ed25519.Sign(private, v.Message), v.Signature)
	if !ed25519.Verify([]byte(v.Public), v.Message, v.Signature) {
		t.Error("the signature does not verify")
	}
}

// TestBlindingDoesNotDependOnTheKey: a phone blinds before it knows which epoch's key
// will evaluate.
func TestBlindingDoesNotDependOnTheKey(t *testing.T) {
	v, _, _ := readPermit(t)
	for range 3 {
		var seed [32]byte
		rand.Read(seed[:])
		private, err := oprf.DeriveKey(suite, oprf.PartialObliviousMode, seed[:], nil)
		if err != nil {
			t.Fatal(err)
		}
		_, request, err := v.pending(t).blindFor(private.Public())
		if err != nil {
			t.Fatal(err)
		}
		b, _ := request.Elements[0].MarshalBinaryCompress()
		same(t, "blinded", b, v.Blinded)
	}
}
