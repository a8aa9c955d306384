"""The 82 postures of Yoga-82 as directions of bones, for `synthesis` to draw.

A direction is two angles in degrees, (sagittal, lateral). Sagittal turns in the plane that cuts the
body into left and right: 0 is up, 90 forward, 180 down, -90 backward. Lateral turns out of it, away
from the middle of the body; of trunk and head, to the left. Right limbs are as the left unless said
otherwise. The angles were set by us from what the class cards say and by eye.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["POSES", "Angles", "Limb", "Pose"]

Angles = tuple[float, float]
Limb = tuple[Angles, Angles]


@dataclass(frozen=True)
class Pose:
    """Directions of the bones, from the pelvis outwards.

    Attributes:
        spine: lower half of the trunk; `chest` is its upper half.
        arm: upper arm and forearm, the left one; `leg`: thigh and shin.
        twist: degrees by which the shoulders turn about the chest, the left one forward.
        hips: degrees by which the line of the hips tilts, the left one down.
        roll: degrees by which the whole body tips over to the right.
        view: degrees by which the camera stands round to the front; 0 is a side view.
    """

    spine: Angles
    chest: Angles
    head: Angles
    arm: Limb
    leg: Limb
    foot: Angles
    right_arm: Limb | None = None
    right_leg: Limb | None = None
    right_foot: Angles | None = None
    twist: float = 0.0
    hips: float = 0.0
    roll: float = 0.0
    view: float = 0.0


# fmt: off
POSES: dict[str, Pose] = {
    "Akarna_Dhanurasana": Pose(
        spine=(8, 0), chest=(10, 0), head=(8, 0),
        arm=((118, 2), (118, 0)), leg=((91, 8), (91, 0)), foot=(10, 0),
        right_arm=((-70, 40), (62, -20)), right_leg=((48, 30), (-18, -12)), right_foot=(40, 0)),
    "Bharadvaja's_Twist_pose_or_Bharadvajasana_I_": Pose(
        spine=(0, 0), chest=(0, 0), head=(0, 0),
        arm=((140, -25), (110, -20)), leg=((92, -22), (-90, 32)), foot=(-90, 20),
        right_arm=((-150, 8), (-165, -5)), right_leg=((92, 28), (-90, -40)), twist=50, view=45),
    "Boat_Pose_or_Paripurna_Navasana_": Pose(
        spine=(-32, 0), chest=(-28, 0), head=(-15, 0),
        arm=((100, 5), (88, 0)), leg=((52, 4), (52, 0)), foot=(30, 0)),
    "Bound_Angle_Pose_or_Baddha_Konasana_": Pose(
        spine=(0, 0), chest=(4, 0), head=(5, 0),
        arm=((152, 10), (142, -28)), leg=((88, 60), (92, -72)), foot=(90, -40), view=65),
    "Bow_Pose_or_Dhanurasana_": Pose(
        spine=(72, 0), chest=(38, 0), head=(15, 0),
        arm=((-72, 8), (-66, 0)), leg=((-62, 8), (38, 0)), foot=(60, 0)),
    "Bridge_Pose_or_Setu_Bandha_Sarvangasana_": Pose(
        spine=(-108, 0), chest=(-128, 0), head=(-75, 0),
        arm=((95, 12), (92, 0)), leg=((82, 6), (186, 0)), foot=(92, 0)),
    "Camel_Pose_or_Ustrasana_": Pose(
        spine=(-28, 0), chest=(-78, 0), head=(-120, 0),
        arm=((186, 5), (184, 0)), leg=((182, 6), (-92, 0)), foot=(-92, 0)),
    "Cat_Cow_Pose_or_Marjaryasana_": Pose(
        spine=(66, 0), chest=(112, 0), head=(140, 0),
        arm=((178, 4), (180, 0)), leg=((180, 4), (-90, 0)), foot=(-92, 0)),
    "Chair_Pose_or_Utkatasana_": Pose(
        spine=(32, 0), chest=(26, 0), head=(15, 0),
        arm=((25, 8), (18, 0)), leg=((112, 4), (196, 0)), foot=(90, 0)),
    "Child_Pose_or_Balasana_": Pose(
        spine=(88, 0), chest=(108, 0), head=(125, 0),
        arm=((98, 12), (94, 0)), leg=((112, 8), (-92, 0)), foot=(-92, 0)),
    "Cobra_Pose_or_Bhujangasana_": Pose(
        spine=(68, 0), chest=(22, 0), head=(-8, 0),
        arm=((172, 8), (160, 0)), leg=((-92, 6), (-92, 0)), foot=(-95, 0)),
    "Cockerel_Pose": Pose(
        spine=(20, 0), chest=(22, 0), head=(10, 0),
        arm=((172, -6), (180, -4)), leg=((70, 42), (80, -72)), foot=(60, -40), view=76),
    "Corpse_Pose_or_Savasana_": Pose(
        spine=(-90, 0), chest=(-90, 0), head=(-88, 0),
        arm=((92, 26), (92, 14)), leg=((91, 13), (91, 8)), foot=(55, 30)),
    "Cow_Face_Pose_or_Gomukhasana_": Pose(
        spine=(0, 0), chest=(-2, 0), head=(0, 0),
        arm=((-8, 12), (200, -38)), leg=((86, -20), (-92, -52)), foot=(-90, -40),
        right_arm=((190, 18), (-18, -48)), right_leg=((72, -16), (-104, -50)), view=70),
    "Crane_(Crow)_Pose_or_Bakasana_": Pose(
        spine=(72, 0), chest=(112, 0), head=(72, 0),
        arm=((188, 14), (176, -4)), leg=((128, 22), (-78, -6)), foot=(-60, 0)),
    "Dolphin_Plank_Pose_or_Makara_Adho_Mukha_Svanasana_": Pose(
        spine=(82, 0), chest=(82, 0), head=(84, 0),
        arm=((182, 5), (90, 0)), leg=((-102, 4), (-100, 0)), foot=(175, 0)),
    "Dolphin_Pose_or_Ardha_Pincha_Mayurasana_": Pose(
        spine=(132, 0), chest=(140, 0), head=(165, 0),
        arm=((150, 6), (90, -6)), leg=((206, 5), (204, 0)), foot=(110, 0)),
    "Downward-Facing_Dog_pose_or_Adho_Mukha_Svanasana_": Pose(
        spine=(126, 0), chest=(132, 0), head=(140, 0),
        arm=((128, 8), (128, 0)), leg=((208, 6), (204, 0)), foot=(110, 0)),
    "Eagle_Pose_or_Garudasana_": Pose(
        spine=(16, 0), chest=(8, 0), head=(2, 0),
        arm=((112, -28), (8, -8)), leg=((156, 0), (192, 0)), foot=(92, 0),
        right_arm=((98, -30), (4, 6)), right_leg=((128, -26), (206, -22)), right_foot=(150, -20),
        view=50),
    "Eight-Angle_Pose_or_Astavakrasana_": Pose(
        spine=(80, 0), chest=(88, 0), head=(60, 0),
        arm=((222, 14), (172, 0)), leg=((96, -58), (92, -66)), foot=(80, -60),
        right_arm=((222, 20), (172, 0)), right_leg=((100, 52), (92, 66)), right_foot=(80, 60),
        view=80),
    "Extended_Puppy_Pose_or_Uttana_Shishosana_": Pose(
        spine=(128, 0), chest=(108, 0), head=(96, 0),
        arm=((104, 8), (96, 0)), leg=((180, 6), (-92, 0)), foot=(-92, 0)),
    "Extended_Revolved_Side_Angle_Pose_or_Utthita_Parsvakonasana_": Pose(
        spine=(0, 52), chest=(0, 60), head=(0, 56),
        arm=((178, 8), (180, 4)), leg=((176, 68), (180, 2)), foot=(100, 70),
        right_arm=((0, -56), (0, -62)), right_leg=((180, 46), (180, 46)), right_foot=(95, 20),
        hips=15, view=90),
    "Extended_Revolved_Triangle_Pose_or_Utthita_Trikonasana_": Pose(
        spine=(0, 72), chest=(0, 82), head=(0, 80),
        arm=((180, -8), (180, -8)), leg=((180, 30), (180, 30)), foot=(100, 70),
        right_arm=((0, 2), (0, 2)), right_leg=((180, 30), (180, 30)), right_foot=(95, 20),
        hips=25, view=90),
    "Feathered_Peacock_Pose_or_Pincha_Mayurasana_": Pose(
        spine=(184, 0), chest=(176, 0), head=(140, 0),
        arm=((180, 5), (92, -4)), leg=((2, 3), (2, 0)), foot=(2, 0)),
    "Firefly_Pose_or_Tittibhasana_": Pose(
        spine=(28, 0), chest=(48, 0), head=(30, 0),
        arm=((192, 2), (180, 0)), leg=((70, 36), (68, 34)), foot=(25, 10), view=60),
    "Fish_Pose_or_Matsyasana_": Pose(
        spine=(-58, 0), chest=(-86, 0), head=(-148, 0),
        arm=((142, 10), (94, 0)), leg=((92, 4), (91, 0)), foot=(40, 0)),
    "Four-Limbed_Staff_Pose_or_Chaturanga_Dandasana_": Pose(
        spine=(88, 0), chest=(88, 0), head=(82, 0),
        arm=((-92, 6), (178, 0)), leg=((-97, 4), (-97, 0)), foot=(175, 0)),
    "Frog_Pose_or_Bhekasana": Pose(
        spine=(68, 0), chest=(38, 0), head=(18, 0),
        arm=((-92, 22), (-128, -8)), leg=((-93, 12), (66, 6)), foot=(82, 0)),
    "Garland_Pose_or_Malasana_": Pose(
        spine=(24, 0), chest=(12, 0), head=(4, 0),
        arm=((158, 12), (52, -42)), leg=((66, 40), (194, -4)), foot=(92, 20), view=72),
    "Gate_Pose_or_Parighasana_": Pose(
        spine=(0, 28), chest=(0, 50), head=(0, 56),
        arm=((180, 34), (180, 48)), leg=((180, 60), (180, 60)), foot=(120, 60),
        right_arm=((0, -36), (0, -58)), right_leg=((180, 2), (-92, 0)), right_foot=(-92, 0),
        view=85),
    "Half_Lord_of_the_Fishes_Pose_or_Ardha_Matsyendrasana_": Pose(
        spine=(0, 0), chest=(0, 0), head=(0, 0),
        arm=((112, -38), (20, -10)), leg=((92, 18), (-88, -40)), foot=(-90, -20),
        right_arm=((-152, 6), (-166, 0)), right_leg=((52, -14), (192, -24)), right_foot=(92, 0),
        twist=55, view=35),
    "Half_Moon_Pose_or_Ardha_Chandrasana_": Pose(
        spine=(0, 84), chest=(0, 86), head=(0, 84),
        arm=((180, 0), (180, 0)), leg=((180, 2), (180, 2)), foot=(110, 60),
        right_arm=((0, 0), (0, 0)), right_leg=((180, 86), (180, 86)), right_foot=(90, 40),
        hips=70, view=90),
    "Handstand_pose_or_Adho_Mukha_Vrksasana_": Pose(
        spine=(180, 0), chest=(180, 0), head=(176, 0),
        arm=((180, 5), (180, 0)), leg=((0, 3), (0, 0)), foot=(2, 0)),
    "Happy_Baby_Pose_or_Ananda_Balasana_": Pose(
        spine=(-92, 0), chest=(-90, 0), head=(-84, 0),
        arm=((22, 26), (24, 14)), leg=((-34, 38), (2, -4)), foot=(-60, 0), view=25),
    "Head-to-Knee_Forward_Bend_pose_or_Janu_Sirsasana_": Pose(
        spine=(62, 0), chest=(86, 0), head=(100, 0),
        arm=((104, -2), (96, -4)), leg=((91, 4), (91, 0)), foot=(15, 0),
        right_leg=((90, 58), (86, -72)), right_foot=(80, -50)),
    "Heron_Pose_or_Krounchasana_": Pose(
        spine=(-8, 0), chest=(-4, 0), head=(2, 0),
        arm=((62, -4), (46, -6)), leg=((26, 2), (26, 0)), foot=(-10, 0),
        right_arm=((62, -4), (46, -10)), right_leg=((95, 10), (-92, 8)), right_foot=(-92, 0)),
    "Intense_Side_Stretch_Pose_or_Parsvottanasana_": Pose(
        spine=(118, 0), chest=(146, 0), head=(164, 0),
        arm=((-58, 24), (60, -62)), leg=((154, 2), (154, 0)), foot=(92, 0),
        right_leg=((206, 3), (206, 0)), right_foot=(80, 20)),
    "Legs-Up-the-Wall_Pose_or_Viparita_Karani_": Pose(
        spine=(-91, 0), chest=(-90, 0), head=(-88, 0),
        arm=((90, 34), (92, 16)), leg=((3, 3), (3, 0)), foot=(-40, 0)),
    "Locust_Pose_or_Salabhasana_": Pose(
        spine=(76, 0), chest=(58, 0), head=(46, 0),
        arm=((-86, 14), (-82, 4)), leg=((-76, 4), (-72, 0)), foot=(-76, 0)),
    "Lord_of_the_Dance_Pose_or_Natarajasana_": Pose(
        spine=(32, 0), chest=(18, 0), head=(2, 0),
        arm=((66, 2), (60, 0)), leg=((180, 0), (182, 0)), foot=(92, 0),
        right_arm=((-78, 10), (-64, -4)), right_leg=((-84, 4), (22, 0)), right_foot=(60, 0)),
    "Low_Lunge_pose_or_Anjaneyasana_": Pose(
        spine=(-4, 0), chest=(-14, 0), head=(-16, 0),
        arm=((-4, 8), (-6, 0)), leg=((102, 4), (180, 0)), foot=(92, 0),
        right_leg=((206, 2), (-92, 0)), right_foot=(-92, 0)),
    "Noose_Pose_or_Pasasana_": Pose(
        spine=(30, 0), chest=(26, 0), head=(10, 0),
        arm=((124, -30), (222, -52)), leg=((72, 4), (202, 0)), foot=(92, 0),
        right_arm=((-140, 16), (-176, -46)), twist=60, view=40),
    "Peacock_Pose_or_Mayurasana_": Pose(
        spine=(94, 0), chest=(96, 0), head=(74, 0),
        arm=((228, 0), (172, -6)), leg=((-78, 3), (-77, 0)), foot=(-78, 0)),
    "Pigeon_Pose_or_Kapotasana_": Pose(
        spine=(-52, 0), chest=(-122, 0), head=(-168, 0),
        arm=((196, 6), (98, -4)), leg=((178, 8), (-92, 0)), foot=(-92, 0)),
    "Plank_Pose_or_Kumbhakasana_": Pose(
        spine=(76, 0), chest=(76, 0), head=(82, 0),
        arm=((182, 5), (180, 0)), leg=((-106, 4), (-104, 0)), foot=(175, 0)),
    "Plow_Pose_or_Halasana_": Pose(
        spine=(168, 0), chest=(186, 0), head=(-102, 0),
        arm=((88, 14), (91, 0)), leg=((-122, 4), (-124, 0)), foot=(-165, 0)),
    "Pose_Dedicated_to_the_Sage_Koundinya_or_Eka_Pada_Koundinyanasana_I_and_II": Pose(
        spine=(84, 0), chest=(90, 0), head=(62, 0),
        arm=((228, 14), (174, 0)), leg=((104, 38), (88, 22)), foot=(70, 10),
        right_leg=((-82, 6), (-80, 0)), right_foot=(-80, 0), view=20),
    "Rajakapotasana": Pose(
        spine=(-8, 0), chest=(-34, 0), head=(-78, 0),
        arm=((-18, 8), (-112, -6)), leg=((92, 26), (94, -64)), foot=(90, -50),
        right_leg=((-92, 4), (-2, 0)), right_foot=(60, 0)),
    "Reclining_Hand-to-Big-Toe_Pose_or_Supta_Padangusthasana_": Pose(
        spine=(-90, 0), chest=(-90, 0), head=(-86, 0),
        arm=((30, -4), (26, -4)), leg=((-14, 2), (-14, 0)), foot=(-60, 0),
        right_arm=((92, 18), (92, 4)), right_leg=((91, 3), (91, 0)), right_foot=(40, 0)),
    "Revolved_Head-to-Knee_Pose_or_Parivrtta_Janu_Sirsasana_": Pose(
        spine=(4, 38), chest=(6, 72), head=(4, 78),
        arm=((122, 58), (100, 60)), leg=((90, 62), (90, 62)), foot=(20, 30),
        right_arm=((0, -66), (120, -80)), right_leg=((90, 58), (88, -70)), right_foot=(85, -40),
        view=85),
    "Scale_Pose_or_Tolasana_": Pose(
        spine=(10, 0), chest=(8, 0), head=(4, 0),
        arm=((184, 8), (180, 0)), leg=((52, 42), (92, -74)), foot=(60, -40), view=72),
    "Scorpion_pose_or_vrischikasana": Pose(
        spine=(206, 0), chest=(158, 0), head=(104, 0),
        arm=((184, 5), (92, -4)), leg=((34, 5), (116, -3)), foot=(130, 0)),
    "Seated_Forward_Bend_pose_or_Paschimottanasana_": Pose(
        spine=(62, 0), chest=(90, 0), head=(100, 0),
        arm=((100, 2), (94, 0)), leg=((91, 4), (91, 0)), foot=(15, 0)),
    "Shoulder-Pressing_Pose_or_Bhujapidasana_": Pose(
        spine=(38, 0), chest=(66, 0), head=(40, 0),
        arm=((196, 4), (176, 0)), leg=((66, 36), (112, -46)), foot=(60, -20), view=68),
    "Side-Reclining_Leg_Lift_pose_or_Anantasana_": Pose(
        spine=(0, 0), chest=(0, -6), head=(0, -2),
        arm=((180, 56), (180, 58)), leg=((180, 78), (180, 78)), foot=(180, 100),
        right_arm=((0, 8), (20, -64)), right_leg=((180, 0), (180, 0)), right_foot=(130, 0),
        roll=88, view=90),
    "Side_Crane_(Crow)_Pose_or_Parsva_Bakasana_": Pose(
        spine=(70, 0), chest=(102, 0), head=(66, 0),
        arm=((196, 12), (174, 0)), leg=((112, 48), (-88, 34)), foot=(-80, 30),
        right_leg=((118, -38), (-88, -26)), right_foot=(-80, -30), twist=-30, view=55),
    "Side_Plank_Pose_or_Vasisthasana_": Pose(
        spine=(0, 0), chest=(0, 0), head=(0, 0),
        arm=((0, 66), (0, 66)), leg=((180, 0), (180, 0)), foot=(120, 0),
        right_arm=((180, 66), (180, 66)), roll=66, view=90),
    "Sitting pose 1 (normal)": Pose(
        spine=(0, 0), chest=(0, 0), head=(2, 0),
        arm=((160, 22), (146, 20)), leg=((88, 50), (90, -62)), foot=(80, -40), view=70),
    "Split pose": Pose(
        spine=(-4, 0), chest=(-2, 0), head=(0, 0),
        arm=((176, 22), (178, 14)), leg=((90, 2), (90, 0)), foot=(30, 0),
        right_leg=((-90, 2), (-90, 0)), right_foot=(-95, 0)),
    "Staff_Pose_or_Dandasana_": Pose(
        spine=(0, 0), chest=(2, 0), head=(4, 0),
        arm=((186, 8), (178, 2)), leg=((91, 4), (91, 0)), foot=(20, 0)),
    "Standing_Forward_Bend_pose_or_Uttanasana_": Pose(
        spine=(138, 0), chest=(166, 0), head=(182, 0),
        arm=((182, 4), (176, 0)), leg=((184, 3), (182, 0)), foot=(92, 0)),
    "Standing_Split_pose_or_Urdhva_Prasarita_Eka_Padasana_": Pose(
        spine=(148, 0), chest=(166, 0), head=(186, 0),
        arm=((178, 6), (176, 0)), leg=((182, 0), (182, 0)), foot=(92, 0),
        right_leg=((-22, 3), (-18, 0)), right_foot=(-10, 0)),
    "Standing_big_toe_hold_pose_or_Utthita_Padangusthasana": Pose(
        spine=(0, 0), chest=(0, 0), head=(0, 0),
        arm=((196, 34), (140, -46)), leg=((180, 1), (180, 0)), foot=(92, 0),
        right_arm=((104, 34), (96, 34)), right_leg=((80, 38), (80, 38)), right_foot=(10, 20),
        view=35),
    "Supported_Headstand_pose_or_Salamba_Sirsasana_": Pose(
        spine=(180, 0), chest=(180, 0), head=(180, 0),
        arm=((206, 14), (116, -28)), leg=((0, 2), (0, 0)), foot=(4, 0)),
    "Supported_Shoulderstand_pose_or_Salamba_Sarvangasana_": Pose(
        spine=(172, 0), chest=(184, 0), head=(-102, 0),
        arm=((86, 14), (-22, -8)), leg=((-2, 3), (0, 0)), foot=(10, 0)),
    "Supta_Baddha_Konasana_": Pose(
        spine=(-90, 0), chest=(-90, 0), head=(-86, 0),
        arm=((92, 34), (92, 20)), leg=((86, 58), (94, -72)), foot=(90, -40), view=40),
    "Supta_Virasana_Vajrasana": Pose(
        spine=(-76, 0), chest=(-94, 0), head=(-88, 0),
        arm=((96, 26), (92, 6)), leg=((98, 10), (-93, 4)), foot=(-93, 0)),
    "Tortoise_Pose": Pose(
        spine=(74, 0), chest=(98, 0), head=(94, 0),
        arm=((104, 72), (96, 78)), leg=((76, 40), (104, 36)), foot=(40, 20), view=50),
    "Tree_Pose_or_Vrksasana_": Pose(
        spine=(0, 0), chest=(0, 0), head=(0, 0),
        arm=((2, 26), (2, -18)), leg=((180, 3), (180, 0)), foot=(95, 0),
        right_leg=((150, 58), (190, -62)), right_foot=(180, 0), view=80),
    "Upward_Bow_(Wheel)_Pose_or_Urdhva_Dhanurasana_": Pose(
        spine=(-82, 0), chest=(-122, 0), head=(-172, 0),
        arm=((194, 5), (182, 0)), leg=((114, 7), (188, 0)), foot=(92, 0)),
    "Upward_Facing_Two-Foot_Staff_Pose_or_Dwi_Pada_Viparita_Dandasana_": Pose(
        spine=(-72, 0), chest=(-128, 0), head=(-176, 0),
        arm=((204, 8), (98, -18)), leg=((112, 4), (114, 0)), foot=(100, 0)),
    "Upward_Plank_Pose_or_Purvottanasana_": Pose(
        spine=(-68, 0), chest=(-70, 0), head=(-100, 0),
        arm=((182, 5), (180, 0)), leg=((112, 4), (112, 0)), foot=(112, 0)),
    "Virasana_or_Vajrasana": Pose(
        spine=(0, 0), chest=(0, 0), head=(2, 0),
        arm=((164, 6), (124, 0)), leg=((102, 8), (-93, 0)), foot=(-93, 0)),
    "Warrior_III_Pose_or_Virabhadrasana_III_": Pose(
        spine=(88, 0), chest=(86, 0), head=(78, 0),
        arm=((84, 6), (84, 0)), leg=((180, 1), (180, 0)), foot=(92, 0),
        right_leg=((-90, 2), (-90, 0)), right_foot=(-120, 0)),
    "Warrior_II_Pose_or_Virabhadrasana_II_": Pose(
        spine=(0, 0), chest=(0, 0), head=(0, 0),
        arm=((90, 87), (90, 88)), leg=((176, 68), (180, 2)), foot=(110, 60),
        right_leg=((180, 44), (180, 46)), right_foot=(95, 20), view=90),
    "Warrior_I_Pose_or_Virabhadrasana_I_": Pose(
        spine=(0, 0), chest=(-6, 0), head=(-8, 0),
        arm=((0, 8), (-2, 0)), leg=((108, 4), (182, 0)), foot=(92, 0),
        right_leg=((216, 4), (214, 0)), right_foot=(80, 10)),
    "Wide-Angle_Seated_Forward_Bend_pose_or_Upavistha_Konasana_": Pose(
        spine=(70, 0), chest=(94, 0), head=(94, 0),
        arm=((98, 16), (92, 4)), leg=((90, 54), (90, 54)), foot=(20, 30), view=55),
    "Wide-Legged_Forward_Bend_pose_or_Prasarita_Padottanasana_": Pose(
        spine=(140, 0), chest=(170, 0), head=(182, 0),
        arm=((178, 4), (180, 0)), leg=((182, 30), (182, 30)), foot=(92, 10), view=70),
    "Wild_Thing_pose_or_Camatkarasana_": Pose(
        spine=(-62, 0), chest=(-100, 0), head=(-146, 0),
        arm=((-84, 4), (-104, 0)), leg=((104, 14), (186, 0)), foot=(92, 0),
        right_arm=((184, 22), (182, 12)), right_leg=((114, 8), (116, 4)), right_foot=(100, 0),
        twist=24, view=15),
    "Wind_Relieving_pose_or_Pawanmuktasana": Pose(
        spine=(-92, 0), chest=(-88, 0), head=(-70, 0),
        arm=((62, 14), (48, -28)), leg=((-36, 6), (100, 0)), foot=(100, 0)),
    "Yogic_sleep_pose": Pose(
        spine=(-112, 0), chest=(-78, 0), head=(-52, 0),
        arm=((70, 52), (112, -58)), leg=((-52, 40), (-116, -44)), foot=(-100, -30), view=30),
    "viparita_virabhadrasana_or_reverse_warrior_pose": Pose(
        spine=(0, -18), chest=(0, -36), head=(0, -34),
        arm=((0, -14), (0, -34)), leg=((176, 66), (180, 2)), foot=(110, 60),
        right_arm=((180, 26), (180, 38)), right_leg=((180, 44), (180, 46)), right_foot=(95, 20),
        view=90),
}
# fmt: on
